"""The OpenAPI document agrees with itself and with the table of routes."""

from collections.abc import Iterator
from typing import Any

import pytest

from service.edge.routes.docs import ASSETS
from service.edge.routes.table import ROUTES, document

PAGES = {"/docs", "/openapi.json", *ASSETS}


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


def test_every_route_is_documented_and_nothing_else() -> None:
    served = {(route.path, route.method.lower()) for route in ROUTES if route.path not in PAGES}
    shown = {(path, key) for path, found in document()["paths"].items() for key in found}
    assert {pair for pair in shown if pair[1] != "parameters"} == served
