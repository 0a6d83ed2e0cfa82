"""The files of `docker build` and `docker compose`, and those of Prometheus and Grafana, held against the code."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/valence.json").read_text())
SERVED = ("valence", "valence-gpu")
# Settings that Compose does not pass. The container listens on all its addresses. VALENCE_PORT is the port of the host, which
# leads to port 8000 of the container.
FIXED = {"host", "port"}

# The suffixes of the series that Prometheus stores of a metric, by its type.
SERIES = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}


def declared_series() -> dict[str, set[str]]:
    """Every series that service/metrics.py declares, with its labels. It is read as text: an import would open metrics' files."""
    source = (ROOT / "service/metrics.py").read_text()
    series = {}
    for kind, name, labels in re.findall(r'= (Counter|Gauge|Histogram)\(\s*"(\w+)",\s*"[^"]*"(?:,\s*\[([^]]*)])?', source):
        named = set(re.findall(r'"(\w+)"', labels))
        for suffix in SERIES[kind]:
            series[name + suffix] = named | {"le"} if suffix == "_bucket" else named
    return series


def expressions() -> list[str]:
    """Every query of the dashboard's panels."""
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def images() -> list[str]:
    """Every image that the files name to be pulled."""
    pulled = [service["image"] for service in COMPOSE["services"].values() if "image" in service]
    return [*pulled, *re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)]


def bind_mounts() -> list[str]:
    """The host's path of every mount that is not a named volume, with variables at their defaults."""
    mounts = [mount for service in COMPOSE["services"].values() for mount in service.get("volumes", [])]
    paths = [re.sub(r"\$\{\w+:-([^}]*)}", r"\1", mount).split(":")[0] for mount in mounts]
    return sorted({path for path in paths if path not in COMPOSE["volumes"]})


def test_the_metrics_are_found_in_the_source() -> None:
    series = declared_series()
    assert series["valence_requests_total"] == {"route", "model", "status"}
    assert series["valence_request_duration_seconds_bucket"] == {"model", "le"}
    assert series["valence_requests_in_flight"] == set()


@pytest.mark.parametrize("expression", expressions())
def test_a_panel_asks_for_series_that_the_service_exposes(expression: str) -> None:
    asked = re.findall(r"valence_\w+", expression)
    assert asked
    assert set(asked) <= declared_series().keys()


@pytest.mark.parametrize("expression", expressions())
def test_a_panel_uses_labels_that_its_series_has(expression: str) -> None:
    (name,) = set(re.findall(r"valence_\w+?(?=_sum|_count|\b)", expression))
    labels = set().union(*(labels for series, labels in declared_series().items() if series.startswith(name)))
    selected = re.findall(r"(\w+)=~?\"", expression)
    grouped = [label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")]
    assert {*selected, *grouped} <= labels


def test_the_dashboard_reads_the_provisioned_datasource() -> None:
    provisioned = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    uids = set(re.findall(r'"uid": "(\w+)"', json.dumps(DASHBOARD["panels"])))
    assert uids == {source["uid"] for source in provisioned["datasources"]}


def test_grafana_finds_the_dashboards_where_compose_mounts_them() -> None:
    provisioned = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/valence.yml").read_text())
    (provider,) = provisioned["providers"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in COMPOSE["services"]["grafana"]["volumes"]


def test_prometheus_scrapes_the_service_of_the_compose_file() -> None:
    scrape = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["static_configs"] == [{"targets": [f"valence:{Settings.model_fields['port'].default}"]}]
    assert "metrics_path" not in scrape  # the service's is Prometheus' default


def test_compose_accepts_the_file(resolved_compose: Callable[..., dict[str, Any]]) -> None:
    assert set(resolved_compose({})["services"]) == {"valence", "valence-gpu", "prometheus", "grafana", "locust"}


def test_compose_passes_a_setting_only_where_it_is_set(resolved_compose: Callable[..., dict[str, Any]]) -> None:
    environment = resolved_compose({"VALENCE_DTYPE": "int8"})["services"]["valence"]["environment"]
    assert {name: value for name, value in environment.items() if value is not None} == {"VALENCE_DTYPE": "int8"}


@pytest.mark.parametrize("path", bind_mounts())
def test_what_compose_mounts_exists(path: str) -> None:
    assert (ROOT / path).exists()


def passed(name: str) -> set[str]:
    """The settings that Compose hands to a service."""
    return {entry.removeprefix("VALENCE_").lower() for entry in COMPOSE["services"][name]["environment"]}


@pytest.mark.parametrize("name", SERVED)
def test_compose_passes_settings_that_exist(name: str) -> None:
    assert passed(name)
    assert passed(name) <= Settings.model_fields.keys()


@pytest.mark.parametrize("name", SERVED)
def test_compose_passes_every_setting_but_those_that_it_fixes(name: str) -> None:
    assert Settings.model_fields.keys() - passed(name) == FIXED


@pytest.mark.parametrize("name", SERVED)
def test_compose_mounts_the_modules_where_the_image_imports_from(name: str) -> None:
    (path,) = re.findall(r"PYTHONPATH=(\S+)", DOCKERFILE)
    assert f"${{VALENCE_MODULES:-./examples}}:{path}:ro" in COMPOSE["services"][name]["volumes"]


@pytest.mark.parametrize("name", SERVED)
def test_compose_gives_the_service_no_more_than_it_needs(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"]
    assert service["tmpfs"][0].startswith("/tmp")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]


@pytest.mark.parametrize("name", SERVED)
def test_compose_waits_longer_than_the_service_takes_to_stop(name: str) -> None:
    assert (
        int(COMPOSE["services"][name]["stop_grace_period"].removesuffix("s")) > Settings.model_fields["shutdown_grace_s"].default
    )


@pytest.mark.parametrize("image", images())
def test_an_image_is_pinned(image: str) -> None:
    _, separator, tag = image.rpartition("/")[2].partition(":")
    assert separator
    assert re.match(r"v?\d", tag)


def test_every_stage_starts_from_the_pinned_image() -> None:
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON_IMAGE}"}


def test_the_image_runs_as_a_user_without_rights() -> None:
    assert int(re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)[-1]) > 0


@pytest.mark.parametrize("instruction", ["ENTRYPOINT", "HEALTHCHECK"])
def test_no_shell_stands_before_the_process(instruction: str) -> None:
    (command,) = re.findall(rf"^{instruction} .*?(\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert json.loads(command)[0] == "python"


def test_the_health_check_is_python_that_asks_for_readiness() -> None:
    (command,) = re.findall(r"^HEALTHCHECK .*?(\[.*\])$", DOCKERFILE, re.MULTILINE)
    source = json.loads(command)[2]
    compile(source, "HEALTHCHECK", "exec")
    assert "/ready" in source


def test_the_build_context_holds_what_the_dockerfile_copies() -> None:
    copied = {path for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE) for path in line.split()}
    let_in = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {path.split("/")[0] for path in copied} == let_in
    assert all((ROOT / path).exists() for path in copied)
