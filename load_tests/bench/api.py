"""A classification service's API over HTTP: how it is asked, and how its answers are read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from load_tests.generator.load import Load

Scores = dict[str, float]


def read_pairs(answer: Any, labels: Sequence[str]) -> list[Scores]:
    """Hugging Face's form: a list of labels with scores for one text, a list of such lists for several.

    >>> read_pairs([{"label": "good", "score": 0.9}, {"label": "bad", "score": 0.1}], ["bad", "good"])
    [{'good': 0.9, 'bad': 0.1}]
    """
    rows = answer if isinstance(answer[0], list) else [answer]
    return [{pair["label"]: pair["score"] for pair in row} for row in rows]


def read_data_pairs(answer: Any, labels: Sequence[str]) -> list[Scores]:
    """Infinity's form: the same in a field `data`."""
    return read_pairs(answer["data"], labels)


def read_data_probabilities(answer: Any, labels: Sequence[str]) -> list[Scores]:
    """vLLM's form: probabilities in the order of the labels' numbers."""
    rows = sorted(answer["data"], key=lambda row: row["index"])
    return [dict(zip(labels, row["probs"], strict=True)) for row in rows]


@dataclass(frozen=True, kw_only=True)
class Api:
    """Valence's by default. `Load` explains the fields that a body is made from."""

    route: str = "/predict"
    ready_path: str = "/health"
    texts_field: str = "inputs"
    always_list: bool = False
    extra_fields: Mapping[str, object] = field(default_factory=dict)
    result_mark: str = '"score"'
    read: Callable[[Any, Sequence[str]], list[Scores]] = read_pairs

    def load(self, base_url: str, **fields: Any) -> Load:
        """A load on this server."""
        return Load(
            url=base_url + self.route,
            texts_field=self.texts_field,
            always_list=self.always_list,
            extra_fields=self.extra_fields,
            result_mark=self.result_mark,
            **fields,
        )
