"""A real Prometheus scrapes a real server, and answers what the dashboard and the alerts ask."""

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/valence.json").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())
SAFETY_S = 60
LOAD_S = 12
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "10s", "$__range": "1m", "$model": ".*"}

needs_prometheus = pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed (Debian: prometheus)")
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: prometheus)")


def expressions() -> list[str]:
    """Every query of the dashboard's panels, with values for Grafana's variables."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    pattern = re.compile("|".join(map(re.escape, VARIABLES)))
    return [pattern.sub(lambda match: VARIABLES[match[0]], expression) for expression in found]


@pytest.fixture(scope="module")
def watched(start_server: Callable[..., Any]) -> Any:
    flags = ("--http-processes", "2", "--workers-per-device", "2")
    return start_server(*flags, names=("tiny-bert", "failing"))


@pytest.fixture(scope="module")
def prometheus(watched: Any, wait: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Prometheus with deploy/prometheus.yml, except that it scrapes this server each second. It has seen all kinds of load."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [watched.url.removeprefix("http://")]}]
    shutil.copy(ROOT / "deploy/alerts.yml", folder)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://{address}/api/v1", timeout=SAFETY_S, trust_env=False) as client:
            wait(lambda: is_up(client), timeout_s=SAFETY_S)
            load(watched)
            yield client
    finally:
        process.terminate()
        process.wait(SAFETY_S)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_up(client: httpx.Client) -> bool:
    try:
        return any(float(result["value"][1]) for result in query(client, "up"))
    except httpx.TransportError:
        return False


def query(client: httpx.Client, expression: str) -> list[Mapping[str, Any]]:
    answer = client.get("/query", params={"query": expression})
    if answer.status_code == 503:  # still starting
        return []
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]["result"]


def load(server: Any) -> None:
    """Sends good requests, and each second one that fails."""
    end_at = time.monotonic() + LOAD_S

    def send() -> None:
        while time.monotonic() < end_at:
            server.predict(["a wonderful film", "good"])
            server.predict(["the food was good", "the food was"], model="failing")
            server.predict("food poison", model="failing")
            time.sleep(0.05)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@needs_promtool
def test_promtool_finds_no_fault_in_the_metrics(watched: Any) -> None:
    watched.predict("good")
    exposition = watched.client.get("/metrics").content
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=exposition, capture_output=True, timeout=SAFETY_S, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


@needs_prometheus
@pytest.mark.parametrize("expression", expressions())
def test_the_dashboards_query_has_an_answer(prometheus: httpx.Client, expression: str) -> None:
    found = query(prometheus, expression)
    assert found
    assert all(value != "NaN" for result in found for value in result["value"][1:])


@needs_prometheus
def test_the_dashboard_is_drawn_for_the_documentation(prometheus: httpx.Client, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `load` is not installed")
    from load_tests.dashboard.panels import Window, draw_dashboard

    url = str(prometheus.base_url).partition("/api")[0]
    now = time.time()
    draw_dashboard(DASHBOARD, Window(url, now - LOAD_S, now), tmp_path / "drawn.png", title="a title")
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


@needs_prometheus
def test_what_prometheus_sees_is_what_was_sent(prometheus: httpx.Client, watched: Any, wait: Callable[..., None]) -> None:
    def seen() -> dict[str, float]:
        rows = query(prometheus, 'sum by (status) (valence_requests_total{route="/predict"})')
        return {row["metric"]["status"]: float(row["value"][1]) for row in rows}

    before = {status: watched.metric("valence_requests_total", route="/predict", status=status) for status in ("200", "424")}
    assert min(before.values()) > 10
    wait(lambda: seen() == before, timeout_s=10)
    for _ in range(7):
        watched.predict("good")
    wait(lambda: seen() == {**before, "200": before["200"] + 7}, timeout_s=10)


@needs_prometheus
def test_prometheus_evaluates_every_alert(prometheus: httpx.Client, wait: Callable[..., None]) -> None:
    named = [rule["alert"] for group in ALERTS["groups"] for rule in group["rules"]]

    def rules() -> list[Mapping[str, Any]]:
        groups = prometheus.get("/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    wait(lambda: {rule["health"] for rule in rules()} == {"ok"}, timeout_s=20)
    assert [rule["name"] for rule in rules()] == named
    states = {rule["name"]: rule["state"] for rule in rules()}
    assert states["ValenceModelFails"] == "pending"  # the load above failed a third of that model's requests
    assert states["ValenceDown"] == states["ValenceNotReady"] == "inactive"
