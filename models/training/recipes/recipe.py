"""What makes one checkpoint: its data, architecture, schedules and what its card says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from models.training.data import LABELS, Example
from models.training.trainer import Schedule
from tokenizers_store.pipelines import Kind


@dataclass(frozen=True)
class Recipe:
    """What makes one checkpoint. `fields` go into the configuration of the `architecture`, a model_type.

    `corpus` is what it learns from and is judged on; `labels`, some of LABELS in their order, are its classes. `finish` is the
    schedule of a last stage, where there is one.
    """

    name: str
    architecture: str
    description: str
    tokenizer_kind: Kind
    vocab_size: int
    schedule: Schedule
    finish: Schedule | None = None
    corpus: str = "english"
    labels: tuple[str, ...] = LABELS
    fields: Mapping[str, Any] = field(default_factory=dict)
    # The last stage's weights are averaged with those before it, which keeps what the stage would unlearn (Wortsman et al. 2022,
    # https://arxiv.org/abs/2109.01903). This is their share.
    finish_share: float = 1.0
    # Added at the end to the logits of negative, neutral and positive; chosen on the dev sets. In tweets negatives are rare, but
    # macro-recall counts them as much as the rest.
    class_bias: tuple[float, float, float] = (0.0, 0.0, 0.0)
    # For the card: how the shipped weights came about, where it was not by one run of this recipe.
    history: str = ""
    license: str = "apache-2.0"


def in_classes_of(recipe: Recipe, examples: Sequence[Example]) -> list[Example]:
    """The examples of the recipe's labels, each with the index of its class in the model."""
    classes = {LABELS.index(label): index for index, label in enumerate(recipe.labels)}
    return [replace(example, label=classes[example.label]) for example in examples if example.label in classes]


def head_fields(recipe: Recipe) -> dict[str, Any]:
    """What every classifier's config holds beside its sizes."""
    return {
        "tokenizer_name": recipe.name,
        "id2label": dict(enumerate(recipe.labels)),
        "label2id": {label: index for index, label in enumerate(recipe.labels)},
        "problem_type": "single_label_classification",
    }


def with_changes(recipe: Recipe, *, epochs: float | None = None, **changes: Any) -> Recipe:
    """The recipe with another length, and with what is not None of `changes` in both its stages."""
    given = {name: value for name, value in changes.items() if value is not None}
    first = given if epochs is None else given | {"epochs": epochs}
    finish = None if recipe.finish is None else replace(recipe.finish, **given)
    return replace(recipe, schedule=replace(recipe.schedule, **first), finish=finish)
