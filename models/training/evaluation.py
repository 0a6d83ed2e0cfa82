"""Figures of merit for sentiment predictors, and the table that compares them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score, f1_score, recall_score

from models.training.data import Example, corpus_of, load_file

BINS = 15  # of confidence, as in Guo et al. 2017


@dataclass(frozen=True)
class Predictions:
    """The class of each text and, where the predictor has one, the probability that it gives that class."""

    classes: Sequence[int]
    confidences: Sequence[float] | None = None


Predictor = Callable[[Sequence[str]], Predictions]

# By corpus, so by language.
PROBES = {"english": Path(__file__).with_name("probes.tsv"), "chinese": Path(__file__).with_name("probes_zh.tsv")}


@dataclass(frozen=True)
class Scores:
    """Fractions of 1. Macro figures are unweighted means over the classes that occur among the labels. The expected calibration
    error is None where there are no confidences."""

    accuracy: float
    macro_f1: float
    macro_recall: float
    calibration_error: float | None = None

    def __str__(self) -> str:
        return f"{100 * self.accuracy:.1f} / {100 * self.macro_f1:.1f} / {100 * self.macro_recall:.1f}"


@dataclass(frozen=True)
class Reliability:
    """How sure a predictor was and how often it was right, in each of BINS equal parts of 0..1; 0 where a part has no text."""

    counts_B: NDArray[np.int64]
    confidences_B: NDArray[np.float64]
    accuracies_B: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of confidence and accuracy, each part weighing as its texts do (Guo
        et al. 2017, https://arxiv.org/abs/1706.04599, equation 3)."""
        return float(np.average(np.abs(self.confidences_B - self.accuracies_B), weights=self.counts_B))


def reliability(confidences: ArrayLike, right: ArrayLike) -> Reliability:
    """Of the probability of each text's class, and whether that class is the true one. A part holds its upper end.

    >>> f"{reliability([0.9, 0.9, 0.6, 0.6], [True, True, True, False]).error:.2f}"
    '0.10'
    """
    sure_S, right_S = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    parts_S = np.clip(np.ceil(sure_S * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts_B = np.bincount(parts_S, minlength=BINS)
    sums = (np.bincount(parts_S, each_S, minlength=BINS) for each_S in (sure_S, right_S))
    return Reliability(counts_B, *(sum_B / np.maximum(counts_B, 1) for sum_B in sums))


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


def evaluation_files(files: Iterable[Path], *, corpus: str) -> dict[str, list[Example]]:
    """Each file of `label<TAB>text` lines in the corpus's language under its stem."""
    tables = {path.stem: load_file(path) for path in files}
    return {name: table for name, table in tables.items() if corpus_of(table) == corpus}


def evaluation_sets(
    test: Sequence[Example], *, files: Iterable[Path] = (), corpus: str = "english"
) -> dict[str, Sequence[Example]]:
    """The in-domain test split, the files in the corpus's language, and the probes."""
    return {"in-domain test": test, **evaluation_files(files, corpus=corpus), "probes": load_file(PROBES[corpus])}


def quality_table(predictors: Mapping[str, Predictor], sets: Mapping[str, Sequence[Example]]) -> str:
    """A Markdown table: predictors down, sets across, and four figures (in %) where they meet."""
    header = ["accuracy / macro-F1 / macro-recall / ECE, %"]
    header += [f"{name} ({len(examples):,})" for name, examples in sets.items()]
    rows = [header, ["---"] * len(header)]
    for name, predict in predictors.items():
        rows.append([name, *(with_calibration(evaluate(predict, examples=examples)) for examples in sets.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def with_calibration(scores: Scores) -> str:
    """
    >>> with_calibration(Scores(0.7, 0.6, 0.6, calibration_error=0.051)), with_calibration(Scores(0.7, 0.6, 0.6))
    ('70.0 / 60.0 / 60.0 / 5.1', '70.0 / 60.0 / 60.0 / –')
    """
    return f"{scores} / {'–' if scores.calibration_error is None else f'{100 * scores.calibration_error:.1f}'}"


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
    labels = [example.label for example in examples]
    found = predict([example.text for example in examples])
    scores = score(labels, found.classes)
    if found.confidences is None:
        return scores
    return replace(scores, calibration_error=reliability(found.confidences, np.equal(found.classes, labels)).error)
