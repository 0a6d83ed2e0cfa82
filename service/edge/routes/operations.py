"""The parts of an OpenAPI operation that routes have in common."""

from collections.abc import Sequence
from typing import Any

ERRORS = {
    400: "The body is not JSON, or holds nothing to score.",
    401: "An API key is needed.",
    403: "This changes the service, which takes an admin key, or is closed.",
    404: "No such model or route.",
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


def operation(
    name: str,
    *,
    summary: str,
    answer: str | None,
    failures: Sequence[int] = (),
    description: str | None = None,
    body: str | None = None,
    example: Any = None,
    media: str = "application/json",
    scores: bool = False,
) -> dict[str, Any]:
    """`answer` and `body` are names of schemas; `failures` the statuses other than 200; an operation that never answers 401 takes
    no key. `scores`: the answer tells of its way through the model."""
    found: dict[str, Any] = {"operationId": name, "summary": summary}
    if body is not None:
        found["parameters"] = [TIMEOUT]
        found["requestBody"] = {"required": True, "content": {media: {"schema": reference(body), "example": example}}}
    if 401 in failures:
        found["security"] = [{}, {"bearer": []}, {"key": []}]
    found["responses"] = {
        "200": {
            "description": description or summary,
            "headers": SCORE_HEADERS if scores else {},
            "content": {media: {"schema": STRING if answer is None else reference(answer)}},
        },
        **{str(status): failure(status) for status in failures},
    }
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
    """To a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}
