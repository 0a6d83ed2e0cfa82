"""The OpenAPI document, generated from the types that validate and answer."""

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from typing_extensions import TypedDict

from service import __version__
from service.edge.routes import explain as explanations
from service.edge.routes import models as admin
from service.edge.routes import predict as wire
from service.edge.routes import tensors
from service.edge.routes import tokenize as token_lists
from service.edge.routes.infer import Live, ModelMetadata, ModelReady, Ready, ServerMetadata
from service.edge.routes.models import ModelRemoved, ModelState
from service.edge.routes.monitor import Information
from service.edge.routes.operations import SECURITY_SCHEMES, operation, path_parameter


class Status(TypedDict):
    """One word."""

    status: str


class Error(TypedDict):
    """Every answer other than 200: one sentence for people, one word for programs."""

    error: str
    error_type: str


TAKEN: dict[str, TypeAdapter[Any]] = {
    "PredictBody": wire.BODY,
    "TokenizeBody": token_lists.BODY,
    "ExplainBody": explanations.BODY,
    "InferBody": tensors.BODY,
    "ModelBody": admin.BODY,
}
GIVEN: dict[str, TypeAdapter[Any]] = {
    "Scores": wire.ANSWER,
    "TokenLists": token_lists.ANSWER,
    "Explanation": explanations.ANSWER,
    "InferAnswer": tensors.ANSWER,
    "ModelStates": admin.STATES,
    **{
        type.__name__: TypeAdapter(type)
        for type in (Information, ServerMetadata, Live, Ready, ModelMetadata, ModelReady, ModelState, ModelRemoved, Status, Error)
    },
}
SCORING = (400, 401, 404, 413, 415, 422, 424, 429, 503, 504)
TOKENIZING = (400, 401, 404, 413, 415, 422, 429, 504)
PREDICT_EXAMPLE = {"inputs": "A wonderful surprise, funny and moving."}
INFER_EXAMPLE = {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["LOVED IT", "not good at all"]}]}


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Valence", "version": __version__, "description": "Serves custom text classifiers."},
        "paths": {**scoring_paths(), **operating_paths(), **changing_paths(), **protocol_paths()},
        "components": {"schemas": schemas(), "securitySchemes": SECURITY_SCHEMES},
    }


def schemas() -> dict[str, Any]:
    """The types' JSON schemas side by side. One that pydantic writes in place, since it has no name of its own, gets ours."""
    taken: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [(name, "validation", TAKEN[name]) for name in TAKEN]
    given: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [(name, "serialization", GIVEN[name]) for name in GIVEN]
    roots, definitions = TypeAdapter.json_schemas(taken + given, ref_template="#/components/schemas/{model}")
    found: dict[str, Any] = definitions["$defs"]
    return found | {name: schema for (name, _), schema in roots.items() if name not in found}


def scoring_paths() -> dict[str, Any]:
    """Texts in, scores or tokens out."""
    return {
        "/predict": {"post": _predict("predict")},
        "/": {"post": _predict("predict_at_the_root")},
        "/models/{name}/predict": {"post": _predict("predict_by_name"), "parameters": [path_parameter("name")]},
        "/tokenize": {
            "post": operation(
                "tokenize",
                summary="List the tokens of texts.",
                description="A list of tokens for each text; nothing is cut.",
                answer="TokenLists",
                body="TokenizeBody",
                example={"inputs": ["not good at all"], "add_special_tokens": False},
                failures=TOKENIZING,
            )
        },
        "/explain": {
            "post": operation(
                "explain",
                summary="Explain one score by the tokens of its text.",
                description="What each token gave to a label's raw score. Where the operator has not opened it, 404.",
                answer="Explanation",
                body="ExplainBody",
                example={"inputs": "not good at all"},
                failures=SCORING,
                scores=True,
            )
        },
    }


def operating_paths() -> dict[str, Any]:
    """What operators and monitors ask for."""
    ready = "Readiness of every model on every worker."
    return {
        "/health": {"get": operation("health", summary="Liveness.", answer="Status")},
        "/ready": {"get": operation("ready", summary=ready, answer="Status", failures=(503,))},
        "/info": {"get": operation("info", summary="Served models and limits.", answer="Information", failures=(401,))},
        "/metrics": {"get": operation("metrics", summary="Prometheus metrics.", answer=None, media="text/plain")},
    }


def changing_paths() -> dict[str, Any]:
    """What is served, and its changes."""
    put = operation(
        "put_model",
        summary="Serve a checkpoint, in the place of the model of its name.",
        answer="ModelState",
        body="ModelBody",
        example={"name": "mine", "path": "/checkpoints/mine", "version": "2"},
        failures=(400, 401, 403, 409, 413, 415, 422, 429, 503, 504),
    )
    put["responses"]["201"] = put["responses"]["200"] | {"description": "A new name."}
    remove = operation(
        "remove_model", summary="Serve a model no more.", answer="ModelRemoved", failures=(401, 403, 404, 409, 429, 504)
    )
    listing = operation("models", summary="Served models and their versions.", answer="ModelStates", failures=(401,))
    return {
        "/models": {"get": listing, "post": put},
        "/models/{name}": {"delete": remove, "parameters": [path_parameter("name")]},
    }


def protocol_paths() -> dict[str, Any]:
    """The Open Inference Protocol v2, each route of a model with and without a version."""
    server = operation("v2_server", summary="Which server this is.", answer="ServerMetadata", failures=(401,))
    return {
        "/v2": {"get": server},
        "/v2/health/live": {"get": operation("v2_live", summary="Liveness.", answer="Live")},
        "/v2/health/ready": {"get": operation("v2_ready", summary="Readiness.", answer="Ready", failures=(503,))},
        **_model_paths("/v2/models/{name}", "", [path_parameter("name")]),
        **_model_paths("/v2/models/{name}/versions/{version}", "_version", [path_parameter("name"), path_parameter("version")]),
    }


def _model_paths(base: str, tail: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    model = operation("v2_model" + tail, summary="Tensors and labels.", answer="ModelMetadata", failures=(401, 404))
    ready = operation("v2_model_ready" + tail, summary="Readiness of a model.", answer="ModelReady", failures=(401, 404, 503))
    return {
        base: {"get": model, "parameters": parameters},
        base + "/ready": {"get": ready, "parameters": parameters},
        base + "/infer": {"post": _infer("v2_infer" + tail), "parameters": parameters},
    }


def _predict(name: str) -> dict[str, Any]:
    return operation(
        name,
        summary="Score one text or a batch.",
        description="Labels with scores, best first; a list of them for a batch, or for one text with `parameters`.",
        answer="Scores",
        body="PredictBody",
        example=PREDICT_EXAMPLE,
        failures=SCORING,
        scores=True,
    )


def _infer(name: str) -> dict[str, Any]:
    described = operation(
        name,
        summary="Score the texts of one tensor.",
        description="Tensors as JSON, or as bytes behind the JSON: see Triton's binary tensor data extension.",
        answer="InferAnswer",
        body="InferBody",
        example=INFER_EXAMPLE,
        failures=SCORING,
        scores=True,
    )
    described["responses"]["200"]["content"]["application/octet-stream"] = {}
    return described
