"""`GET /info`: what is served, on what, with which limits; beside it the fields that text-embeddings-inference's callers read."""

from collections.abc import Mapping, Sequence

from typing_extensions import TypedDict

from service import __version__
from service.frames import Hello
from service.served.catalog import ServedModel
from service.settings import Settings


class ModelInformation(TypedDict):
    """One served model; `workers`: what each ready worker made of it."""

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
    """What a request may ask for."""

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
    """`version`, `models` and `limits` are this service's; the other fields are TEI's and speak of the first model."""

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
        "model_dtype": hellos[0].details[default_place]["dtype"] if hellos else settings.dtype,
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
