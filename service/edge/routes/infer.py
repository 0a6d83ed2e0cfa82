"""Routes of the Open Inference Protocol v2, which Triton, KServe and MLServer speak: metadata, readiness, inference."""

from collections.abc import Sequence
from dataclasses import replace

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from service import __version__
from service.edge.http import errors
from service.edge.http.call import Call, Response, json_response
from service.edge.routes.monitor import check_ready
from service.edge.routes.openapi import SCORING, Operation, Schema
from service.edge.routes.route import Handler, Route, Services
from service.edge.routes.tensors import HEADER_LENGTH, INFER_ANSWER, INFER_BODY, VERSION, infer_answer, parse_infer
from service.edge.scoring.models import EdgeModel
from service.served.catalog import ServedModel
from service.text.labelling import FUNCTIONS, function_for


class ServerMetadata(TypedDict):
    """Which server, and what it can do beyond the protocol."""

    name: str
    version: str
    extensions: list[str]


class Live(TypedDict):
    """The process answers."""

    live: bool


class Ready(TypedDict):
    """Every worker has let every model answer a real forward."""

    ready: bool


class ModelReady(Ready):
    """Every worker has let this model answer a real forward."""

    name: str


class TensorMetadata(TypedDict):
    """`shape`: -1 stands for the number of texts."""

    name: str
    datatype: str
    shape: list[int]


class ModelParameters(TypedDict):
    """`labels` names the columns of `scores`."""

    labels: list[str]


class ModelMetadata(TypedDict):
    """What one model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: ModelParameters


async def server(edge: Services, call: Call) -> Response:
    """Which server this is."""
    return json_response(200, ServerMetadata(name="valence", version=__version__, extensions=["binary_tensor_data"]))


async def live(edge: Services, call: Call) -> Response:
    """Liveness."""
    return json_response(200, Live(live=True))


async def ready(edge: Services, call: Call) -> Response:
    """Readiness of every model."""
    check_ready(edge)
    return json_response(200, Ready(ready=True))


async def model(edge: Services, call: Call) -> Response:
    """Tensors and labels of one model."""
    return json_response(200, metadata(_model(edge, call).served))


async def model_ready(edge: Services, call: Call) -> Response:
    """Every worker holds every model, so one is ready when all are."""
    name = _model(edge, call).served.name
    check_ready(edge)
    return json_response(200, ModelReady(name=name, ready=True))


async def infer(edge: Services, call: Call) -> Response:
    """Scores the texts of one tensor."""
    model = _model(edge, call)
    request = parse_infer(call.body, call.headers.get(HEADER_LENGTH))
    logits = await edge.scorer.logits(call, model, request.asked)
    labels = model.served.labels
    score = FUNCTIONS[request.function or function_for(model.served.problem_type, labels)]
    return infer_answer(request, [score(row) for row in logits], model=model.served.name, labels=labels)


def _model(edge: Services, call: Call) -> EdgeModel:
    if call.parameters.get("version", VERSION) != VERSION:
        raise errors.not_found(f"no such version; every model is served as version {VERSION}")
    return edge.models.named(call.parameters["name"])


def metadata(model: ServedModel) -> ModelMetadata:
    """What the protocol says of one model."""
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "valence",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, len(model.labels)]},
        ],
        "parameters": {"labels": list(model.labels)},
    }


def _schema(kind: type) -> Schema:
    return Schema(kind.__name__, TypeAdapter(kind))


def _get(path: str, handle: Handler, name: str, summary: str, answer: type, failures: Sequence[int] = (401,)) -> Route:
    operation = Operation(name=name, summary=summary, answer=_schema(answer), failures=failures)
    return Route(method="GET", path=path, handle=handle, operation=operation)


def _of_a_model(tail: str, handle: Handler, operation: Operation, *, method: str = "GET") -> list[Route]:
    """A route of a model, with and without a version; both have one label."""
    base = "/v2/models/{name}"
    return [
        Route(
            method=method,
            path=base + version + tail,
            handle=handle,
            operation=replace(operation, name=operation.name + suffix),
            label=base + tail,
            takes_texts=method == "POST",
        )
        for version, suffix in (("", ""), ("/versions/{version}", "_version"))
    ]


_INFER = Operation(
    name="v2_infer",
    summary="Score the texts of one tensor.",
    description="Tensors as JSON, or as bytes behind the JSON: see Triton's binary tensor data extension.",
    answer=Schema("InferAnswer", INFER_ANSWER),
    body=Schema("InferBody", INFER_BODY),
    example={"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["LOVED IT", "not good at all"]}]},
    failures=SCORING,
    scores=True,
    binary=True,
)
_MODEL = Operation(name="v2_model", summary="Tensors and labels.", answer=_schema(ModelMetadata), failures=(401, 404))
_MODEL_READY = Operation(
    name="v2_model_ready", summary="Readiness of a model.", answer=_schema(ModelReady), failures=(401, 404, 503)
)
ROUTES = (
    _get("/v2", server, "v2_server", "Which server this is.", ServerMetadata),
    _get("/v2/health/live", live, "v2_live", "Liveness.", Live, ()),
    _get("/v2/health/ready", ready, "v2_ready", "Readiness.", Ready, (503,)),
    *_of_a_model("", model, _MODEL),
    *_of_a_model("/ready", model_ready, _MODEL_READY),
    *_of_a_model("/infer", infer, _INFER, method="POST"),
)
