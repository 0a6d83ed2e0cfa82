"""The OpenAPI document agrees with itself and with the edge."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.edge.app import ADMIN_ROUTES
from service.edge.routes.docs import PAGES
from service.edge.routes.openapi import document
from service.settings import Settings
from service.supervisor.server import build_server


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "$ref")
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from references(child)


def test_every_reference_resolves() -> None:
    shown = document()
    found = set(references(shown))
    assert found
    assert {reference.removeprefix("#/components/schemas/") for reference in found} <= set(shown["components"]["schemas"])


@pytest.mark.parametrize("route", ["/predict", "/", "/models/{name}/predict", "/v2/models/{name}/versions/{version}/infer"])
def test_scoring_documents_every_error(route: str) -> None:
    responses = document()["paths"][route]["post"]["responses"]
    assert set(responses) >= {"200", "400", "401", "404", "413", "415", "422", "424", "429", "503", "504"}


def test_operations_have_names_of_their_own() -> None:
    operations = [item for path in document()["paths"].values() for key, item in path.items() if key != "parameters"]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)


def test_every_route_is_documented_and_nothing_else(settings_of: Callable[..., Settings], tmp_path: Path) -> None:
    edge = build_server(settings_of(workers_per_device=1), runtime_dir=tmp_path).app.build_middleware_stack()
    served = {(path, method.lower()) for path, (method, _) in edge.routes.items() if path not in PAGES}
    served |= {(path, method.lower()) for method, path in ADMIN_ROUTES}
    shown = {(path.replace("/versions/{version}", ""), key) for path, found in document()["paths"].items() for key in found}
    assert {pair for pair in shown if pair[1] != "parameters"} == served
