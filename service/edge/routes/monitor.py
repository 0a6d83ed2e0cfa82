"""The routes of operators and monitors: liveness, readiness, what is served, metrics."""

import asyncio
from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from service import __version__, metrics
from service.edge.http import errors
from service.edge.http.call import Call, Response, json_response
from service.edge.routes.openapi import Operation, Schema
from service.edge.routes.route import Route, Services
from service.frames import Hello
from service.served.catalog import ServedModel
from service.settings import Settings


class Status(TypedDict):
    """The state of the service in one word."""

    status: str


async def health(edge: Services, call: Call) -> Response:
    """Liveness: this process answers."""
    return json_response(200, Status(status="alive"))


async def ready(edge: Services, call: Call) -> Response:
    """Readiness: see `check_ready`."""
    check_ready(edge)
    return json_response(200, Status(status="ready"))


async def info(edge: Services, call: Call) -> Response:
    """What is served, on what, with which limits; and the fields that clients of text-embeddings-inference (TEI) read."""
    hellos = [link.hello for link in edge.links if link.hello is not None]
    return json_response(200, information(edge.settings, edge.models.catalog, hellos, http_processes=edge.http_processes))


async def exposition(edge: Services, call: Call) -> Response:
    """The metrics of all processes in Prometheus' text format."""
    metrics.IN_FLIGHT.set(edge.admission.in_flight.total)
    edge.tally.write()
    body = await asyncio.to_thread(metrics.exposition)
    return Response(200, body, [(b"content-type", b"text/plain; version=1.0.0; charset=utf-8")])


def check_ready(edge: Services) -> None:
    """ServiceError 503 if the service is about to stop, or a worker has not let every model answer a real forward."""
    if edge.draining:
        raise errors.unhealthy("the service is about to stop")
    missing = sum(not link.ready for link in edge.links)
    if missing:
        raise errors.unhealthy(f"{missing} of {len(edge.links)} workers are not ready")


class ModelInformation(TypedDict):
    """One served model. `workers`: how each ready worker runs it."""

    name: str
    architecture: str
    id2label: dict[str, str]
    problem_type: str | None
    max_length: int
    tokenizer: str
    version: str | None
    weights: str
    since: str
    source: str | None
    workers: list[dict[str, str]]


class Limits(TypedDict):
    """The limits of requests and of batches."""

    max_concurrent_requests: int
    max_client_batch_size: int
    payload_limit: int
    request_timeout_s: float
    max_batch_tokens: int


class Classifier(TypedDict):
    """Labels by index and back."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class ModelType(TypedDict):
    """TEI's way to say that a model classifies."""

    classifier: Classifier


class Information(TypedDict):
    """`version`, `models` and `limits` are this service's; the other fields are TEI's and describe the first model."""

    version: str
    models: list[ModelInformation]
    limits: Limits
    model_id: str
    model_sha: None
    model_dtype: str
    model_type: ModelType
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    sha: None
    docker_label: None


def information(
    settings: Settings, catalog: Mapping[int, ServedModel], hellos: Sequence[Hello], *, http_processes: int
) -> Information:
    """`hellos`: those of the workers that are ready."""
    default_place, default = next(iter(catalog.items()))
    batch_tokens = settings.batch_tokens(hellos[0].device if hellos else settings.accelerator())
    return {
        "version": __version__,
        "models": [_model(place, model, hellos) for place, model in catalog.items()],
        "limits": {
            "max_concurrent_requests": settings.max_concurrent_requests,
            "max_client_batch_size": settings.max_client_batch_size,
            "payload_limit": settings.payload_limit,
            "request_timeout_s": settings.request_timeout_s,
            "max_batch_tokens": batch_tokens,
        },
        "model_id": default.name,
        "model_sha": None,
        "model_dtype": next(
            (hello.details[default_place]["dtype"] for hello in hellos if default_place in hello.details), settings.dtype
        ),
        "model_type": {"classifier": {"id2label": _labels(default), "label2id": _indices(default)}},
        "max_concurrent_requests": settings.max_concurrent_requests,
        "max_input_length": default.max_length,
        "max_batch_tokens": batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_client_batch_size,
        "auto_truncate": settings.auto_truncate,
        "tokenization_workers": http_processes,
        "sha": None,
        "docker_label": None,
    }


def _model(place: int, model: ServedModel, hellos: Sequence[Hello]) -> ModelInformation:
    return {
        "name": model.name,
        "architecture": model.architecture,
        "id2label": _labels(model),
        "problem_type": model.problem_type,
        "max_length": model.max_length,
        "tokenizer": model.tokenizer_path.name,
        "version": model.version,
        "weights": model.weights,
        "since": model.since,
        "source": model.source,
        "workers": [hello.details[place] for hello in hellos if place in hello.details],
    }


def _labels(model: ServedModel) -> dict[str, str]:
    return {str(index): label for index, label in enumerate(model.labels)}


def _indices(model: ServedModel) -> dict[str, int]:
    return {label: index for index, label in enumerate(model.labels)}


STATUS = Schema("Status", TypeAdapter(Status))
INFORMATION = Schema("Information", TypeAdapter(Information))
READY = "Readiness of every model on every worker."
ROUTES = (
    Route(method="GET", path="/health", handle=health, operation=Operation(name="health", summary="Liveness.", answer=STATUS)),
    Route(
        method="GET",
        path="/ready",
        handle=ready,
        operation=Operation(name="ready", summary=READY, answer=STATUS, failures=(503,)),
    ),
    Route(
        method="GET",
        path="/info",
        handle=info,
        operation=Operation(name="info", summary="Served models and limits.", answer=INFORMATION, failures=(401,)),
    ),
    Route(
        method="GET",
        path="/metrics",
        handle=exposition,
        operation=Operation(name="metrics", summary="Prometheus metrics.", answer=None, media="text/plain"),
    ),
)
