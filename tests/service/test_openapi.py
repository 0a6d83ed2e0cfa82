"""The OpenAPI document agrees with itself and with the edge."""

from collections.abc import Iterator
from typing import Any

import pytest

from service.openapi import document


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


@pytest.mark.parametrize("route", ["/predict", "/models/{name}/predict"])
def test_predict_documents_every_error(route: str) -> None:
    responses = document()["paths"][route]["post"]["responses"]
    assert set(responses) >= {"200", "400", "401", "404", "413", "422", "424", "429", "503", "504"}


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for path in document()["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names)
