"""The alerts: promtool accepts them, each is tested, and each asks for series that the service exposes."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
TESTS = yaml.safe_load((DEPLOY / "alerts_test.yml").read_text())["tests"]
METRICS = (DEPLOY.parent / "service/metrics.py").read_text()

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: prometheus)")


@needs_promtool
@pytest.mark.parametrize(
    "arguments", [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")]
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    checked = subprocess.run(["promtool", *arguments], cwd=DEPLOY, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_is_tested_to_fire_and_to_keep_quiet(rule: dict[str, object]) -> None:
    tested = [one for test in TESTS for one in test["alert_rule_test"] if one["alertname"] == rule["alert"]]
    assert any(one["exp_alerts"] for one in tested)
    assert any(not one["exp_alerts"] for one in tested)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_is_exposed_and_says_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    for name in re.findall(r"valence_\w+", str(rule["expr"])):
        assert f'"{re.sub("_(total|bucket)$", "", name)}"' in METRICS
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "action"}
