"""The OpenAPI document, generated from the table of routes and from the types that validate and answer."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from typing_extensions import TypedDict

from service import __version__


class Error(TypedDict):
    """The body of every error: one sentence for people, one word for programs."""

    error: str
    error_type: str


@dataclass(frozen=True)
class Schema:
    """A type, and its name in the document."""

    name: str
    adapter: TypeAdapter[Any]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What the document says of a route.

    `failures`: the statuses of its errors; without 401 among them it takes no key. `answer` None: text of the type `media`.
    `scores`: the answer has the headers `SCORE_HEADERS`. `created`: what an answer 201 means. `binary`: the answer may come as
    bytes."""

    name: str
    summary: str
    answer: Schema | None
    description: str | None = None
    body: Schema | None = None
    example: Any = None
    failures: Sequence[int] = ()
    media: str = "application/json"
    scores: bool = False
    created: str | None = None
    binary: bool = False


ERRORS = {
    400: "The body is not JSON, or holds nothing to score.",
    401: "An API key is needed.",
    403: "This changes the service, which takes an admin key, or is closed.",
    404: "No such model or route.",
    408: "The body came too slowly.",
    409: "Another change is under way, or it is the default model.",
    413: "The body is larger than the limit.",
    415: "The content-encoding is none of gzip, deflate and identity.",
    422: "A field has the wrong type, or a text or batch is too long.",
    424: "The model failed on a text of this request.",
    429: "Too many requests in flight; see Retry-After.",
    503: "No worker is ready, or the one that held the request died; see Retry-After.",
    504: "The deadline passed.",
}
RETRIED = (429, 503)
# The failures of a route that scores texts.
SCORING = (400, 401, 404, 408, 413, 415, 422, 424, 429, 503, 504)
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
NUMBER, INTEGER, STRING = {"type": "number"}, {"type": "integer"}, {"type": "string"}
SCORE_HEADERS = {
    "x-model": {"description": "The model that answered.", "schema": STRING},
    "x-tokens": {"description": "Tokens computed.", "schema": INTEGER},
    "x-queue-time-ms": {"description": "The longest wait of a text for its batch.", "schema": NUMBER},
    "x-inference-time-ms": {"description": "Time in the model.", "schema": NUMBER},
    "x-total-time-ms": {"description": "From the request's head to its answer.", "schema": NUMBER},
}
TIMEOUT = {
    "name": "x-request-timeout-s",
    "in": "header",
    "description": "A deadline in seconds, if it is shorter than the service's.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}


def document(operations: Sequence[tuple[str, str, Operation]]) -> dict[str, Any]:
    """OpenAPI 3.1 of (method, path, operation)."""
    paths: dict[str, Any] = {}
    for method, path, operation in operations:
        found = paths.setdefault(path, {})
        found[method.lower()] = described(operation)
        if "{" in path:
            found["parameters"] = [path_parameter(name) for name in re.findall(r"{(\w+)}", path)]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Valence", "version": __version__, "description": "Serves custom text classifiers."},
        "servers": [{"url": "."}],  # beside the document, whatever a proxy puts before its path
        "paths": paths,
        "components": {
            "schemas": schemas([operation for _, _, operation in operations]),
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    """The JSON schemas of all types by name. A type without a name of its own, as a union, gets the name of its `Schema`."""
    taken = {operation.body for operation in operations if operation.body is not None}
    given = {operation.answer for operation in operations if operation.answer is not None} | {ERROR}
    wanted: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [*_wanted(taken, "validation"), *_wanted(given, "serialization")]
    roots, definitions = TypeAdapter.json_schemas(wanted, ref_template="#/components/schemas/{model}")
    found: dict[str, Any] = definitions["$defs"]
    return found | {name: schema for (name, _), schema in roots.items() if name not in found}


def _wanted(found: set[Schema], mode: JsonSchemaMode) -> Iterator[tuple[str, JsonSchemaMode, TypeAdapter[Any]]]:
    for schema in sorted(found, key=lambda schema: schema.name):
        yield schema.name, mode, schema.adapter


def described(operation: Operation) -> dict[str, Any]:
    """An operation as the document has it."""
    found: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    if operation.body is not None:
        content = {operation.media: {"schema": reference(operation.body.name), "example": operation.example}}
        found["parameters"] = [TIMEOUT]
        found["requestBody"] = {"required": True, "content": content}
    if 401 in operation.failures:
        found["security"] = [{}, {"bearer": []}, {"key": []}]
    answered: dict[str, Any] = {
        "description": operation.description or operation.summary,
        "headers": SCORE_HEADERS if operation.scores else {},
        "content": {operation.media: {"schema": STRING if operation.answer is None else reference(operation.answer.name)}},
    }
    if operation.binary:
        answered["content"]["application/octet-stream"] = {}
    found["responses"] = {"200": answered, **{str(status): failure(status) for status in operation.failures}}
    if operation.created is not None:
        found["responses"]["201"] = answered | {"description": operation.created}
    return found


def failure(status: int) -> dict[str, Any]:
    """The response that says what went wrong."""
    retry = {"retry-after": {"description": "Seconds.", "schema": INTEGER}} if status in RETRIED else {}
    content = {"application/json": {"schema": reference("Error")}}
    return {"description": ERRORS[status], "headers": retry, "content": content}


def path_parameter(name: str) -> dict[str, Any]:
    """A segment of the path."""
    return {"name": name, "in": "path", "required": True, "schema": STRING}


def reference(name: str) -> dict[str, str]:
    """A reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


ERROR = Schema("Error", TypeAdapter(Error))
