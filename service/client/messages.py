"""What is sent and what comes back, as types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

Text = str | tuple[str, str]
Texts = list[str] | list[tuple[str, str]] | list[Text]


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One label and its score."""

    label: str
    score: float


Scores = list[LabelScore]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model. `max_length` in tokens, special ones included."""

    name: str
    architecture: str
    labels: tuple[str, ...]
    problem_type: str | None
    max_length: int


@dataclass(frozen=True, slots=True)
class Info:
    """What the service serves. `limits` by the names of its settings."""

    version: str
    models: tuple[ModelInfo, ...]
    limits: Mapping[str, float]


class Options(TypedDict, total=False):
    """What `predict` may ask. `model`: the default model unless given. `raw_scores`: logits instead of probabilities."""

    model: str | None
    top_k: int | None
    overflow: Literal["truncate", "window", "error"] | None
    raw_scores: bool


def predict_body(
    texts: Sequence[Text],
    *,
    model: str | None = None,
    top_k: int | None = None,
    overflow: str | None = None,
    raw_scores: bool = False,
) -> dict[str, Any]:
    """The JSON of a batch. What is None is left out, so that the service's own choice holds."""
    fields: dict[str, Any] = {"model": model, "overflow": overflow, "parameters": None if top_k is None else {"top_k": top_k}}
    inputs = [text if isinstance(text, str) else list(text) for text in texts]
    return {"inputs": inputs, "raw_scores": raw_scores, **{name: value for name, value in fields.items() if value is not None}}


def scores_of(answer: list[list[dict[str, Any]]]) -> list[Scores]:
    """The answer to a batch."""
    return [[LabelScore(item["label"], item["score"]) for item in row] for row in answer]


def info_of(answer: dict[str, Any]) -> Info:
    """The answer of `GET /info`."""
    models = [
        ModelInfo(
            name=model["name"],
            architecture=model["architecture"],
            labels=tuple(model["id2label"].values()),
            problem_type=model["problem_type"],
            max_length=model["max_length"],
        )
        for model in answer["models"]
    ]
    return Info(answer["version"], tuple(models), answer["limits"])
