"""Figures of merit for sentiment predictors, and the table that compares them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sklearn.metrics import accuracy_score, f1_score, recall_score

from models.training.data import Example, corpus_of, load_file

Predictor = Callable[[Sequence[str]], Sequence[int]]

# By corpus, so by language.
PROBES = {"english": Path(__file__).with_name("probes.tsv"), "chinese": Path(__file__).with_name("probes_zh.tsv")}


@dataclass(frozen=True)
class Scores:
    """Fractions of 1. Macro figures are unweighted means over the classes that occur among the labels."""

    accuracy: float
    macro_f1: float
    macro_recall: float

    def __str__(self) -> str:
        return f"{100 * self.accuracy:.1f} / {100 * self.macro_f1:.1f} / {100 * self.macro_recall:.1f}"


def score(labels: Sequence[int], predictions: Sequence[int]) -> Scores:
    """Compares class indices, position by position.

    >>> str(score([0, 0, 1, 1], [0, 0, 0, 1]))
    '75.0 / 73.3 / 75.0'
    """
    if not labels or len(labels) != len(predictions):
        raise ValueError(f"got {len(predictions)} predictions for {len(labels)} labels: give one for each, at least one")
    classes = sorted(set(labels))
    return Scores(
        accuracy=float(accuracy_score(labels, predictions)),
        macro_f1=float(f1_score(labels, predictions, labels=classes, average="macro", zero_division=0)),
        macro_recall=float(recall_score(labels, predictions, labels=classes, average="macro", zero_division=0)),
    )


def evaluation_sets(
    test: Sequence[Example], *, files: Iterable[Path] = (), corpus: str = "english"
) -> dict[str, Sequence[Example]]:
    """The in-domain test split, each file of `label<TAB>text` lines in the corpus's language under its stem, and the probes."""
    tables = {path.stem: load_file(path) for path in files}
    return {
        "in-domain test": test,
        **{name: table for name, table in tables.items() if corpus_of(table) == corpus},
        "probes": load_file(PROBES[corpus]),
    }


def quality_table(predictors: Mapping[str, Predictor], sets: Mapping[str, Sequence[Example]]) -> str:
    """A Markdown table: predictors down, sets across, and three figures (in %) where they meet."""
    header = ["accuracy / macro-F1 / macro-recall, %"]
    header += [f"{name} ({len(examples):,})" for name, examples in sets.items()]
    rows = [header, ["---"] * len(header)]
    for name, predict in predictors.items():
        rows.append([name, *(str(evaluate(predict, examples=examples)) for examples in sets.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def evaluate(predict: Predictor, *, examples: Sequence[Example]) -> Scores:
    predictions = predict([example.text for example in examples])
    return score([example.label for example in examples], predictions)
