"""Figures of merit for sentiment predictors, and the table that compares them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

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


def recalls(labels: Sequence[int], predictions: Sequence[int]) -> list[float]:
    """Of each class that occurs among the labels the part that was found.

    >>> recalls([0, 0, 1], [0, 1, 1])
    [0.5, 1.0]
    """
    return recall_score(labels, predictions, labels=sorted(set(labels)), average=None, zero_division=0).tolist()


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


def variance_table(runs: Mapping[str, Mapping[str, Sequence[Scores]]]) -> str:
    """A Markdown table: models down, sets across, and mean ± standard deviation (of the sample) over the runs where they meet."""
    sets = list(next(iter(runs.values())))
    header = ["accuracy / macro-F1 / macro-recall, %", *sets]
    rows = [header, ["---"] * len(header)]
    rows += [[name, *(mean_and_deviation(of_model[known]) for known in sets)] for name, of_model in runs.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def mean_and_deviation(runs: Sequence[Scores]) -> str:
    """
    >>> mean_and_deviation([Scores(0.7, 0.6, 0.6), Scores(0.8, 0.6, 0.7)])
    '75.0 ± 7.1 / 60.0 ± 0.0 / 65.0 ± 7.1'
    """
    measures = zip(*((run.accuracy, run.macro_f1, run.macro_recall) for run in runs), strict=True)
    return " / ".join(
        f"{100 * fmean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "") for values in measures
    )


def evaluate(predict: Predictor, *, examples: Sequence[Example]) -> Scores:
    predictions = predict([example.text for example in examples])
    return score([example.label for example in examples], predictions)
