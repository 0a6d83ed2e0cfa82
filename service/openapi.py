"""The OpenAPI document, generated from the types that validate."""

from typing import Any

from service import __version__, wire

EXAMPLE = {"inputs": "A wonderful surprise, funny and moving."}
ERROR = {
    "type": "object",
    "required": ["error", "error_type"],
    "properties": {"error": {"type": "string"}, "error_type": {"type": "string"}},
}
ERRORS = {
    400: "The body is not JSON, or holds nothing to score.",
    401: "An API key is needed.",
    404: "No such model or route.",
    413: "The body is larger than the limit.",
    422: "A field has the wrong type, or a text or batch is too long.",
    424: "The model failed on a text of this request.",
    429: "Too many requests in flight; see Retry-After.",
    503: "No worker is ready, or the one that held the request died; see Retry-After.",
    504: "The deadline passed.",
}


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    schema = wire.schema()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Valence", "version": __version__, "description": "Serves custom text classifiers."},
        "paths": {
            "/predict": {"post": _predict("predict")},
            "/models/{name}/predict": {"post": _predict("predict_by_name") | {"parameters": [_path_parameter("name")]}},
            "/health": {"get": _plain("health", "Liveness.")},
            "/ready": {"get": _plain("ready", "Readiness: every model on every worker has answered a forward.", 503)},
            "/info": {"get": _plain("info", "Served models and limits.")},
            "/metrics": {"get": _plain("metrics", "Prometheus metrics.", media="text/plain")},
        },
        "components": {
            "schemas": schema["definitions"] | {"PredictBody": schema["body"], "Answer": schema["answer"], "Error": ERROR}
        },
    }


def _predict(operation: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": "Score one text or a batch.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("PredictBody"), "example": EXAMPLE}},
        },
        "responses": {"200": _response("Labels with scores, best first; a list of them for a batch.", _ref("Answer"))}
        | {str(status): _response(text, _ref("Error")) for status, text in ERRORS.items()},
    }


def _plain(operation: str, summary: str, *failures: int, media: str = "application/json") -> dict[str, Any]:
    content = {media: {"schema": {"type": "string"} if media.startswith("text") else {"type": "object"}}}
    responses: dict[str, Any] = {"200": {"description": summary, "content": content}}
    responses |= {str(status): _response(ERRORS[status], _ref("Error")) for status in failures}
    return {"operationId": operation, "summary": summary, "responses": responses}


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
