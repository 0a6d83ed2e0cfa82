"""Whether a server computes what the model computes: its answers to some texts against a reference forward."""

import json
import math
import statistics
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from load_tests.bench.api import Api, Scores

CHECKED_TEXTS = 200
CONNECTIONS = 16
LIST_TEXTS = 20
TIMEOUT_S = 120.0


class AnswerError(Exception):
    """A server answered with an error, or with something that is not labels and scores."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Bounds for differences of probabilities over all texts and labels. `equal_labels`: least share of equal top labels."""

    max_difference: float = math.inf
    mean_difference: float = math.inf
    equal_labels: float = 0.0


# Sums of float32 in another order differ by about 1e-6; a tenth of a percent means that something else was computed. With fewer
# bits a text on which the model is in doubt may move far, so the mean and the labels are judged, not the largest difference.
FLOAT32 = Tolerance(max_difference=1e-3)
FEWER_BITS = Tolerance(mean_difference=0.02, equal_labels=0.95)


@dataclass(frozen=True, kw_only=True)
class AnswerCheck:
    """What a comparison found. `failure` says which tolerance was exceeded; empty: none."""

    texts: int
    max_difference: float
    mean_difference: float
    equal_labels: float
    failure: str


def compare(found: Sequence[Scores], expected: Sequence[Scores], *, dtype: str) -> AnswerCheck:
    """Compares scores text by text. AnswerError if a text has no answer or other labels.

    >>> compare([{"a": 0.6, "b": 0.4}], [{"a": 0.8, "b": 0.2}], dtype="float32").failure
    'a probability differs by 0.2 (tolerated: 0.001)'
    """
    if len(found) != len(expected):
        raise AnswerError(f"{len(expected)} texts were answered with {len(found)} results")
    for ours, theirs in zip(found, expected, strict=True):
        if ours.keys() != theirs.keys():
            raise AnswerError(f"labels {sorted(ours)} instead of {sorted(theirs)}")
    differences = [abs(row[label] - right[label]) for row, right in zip(found, expected, strict=True) for label in right]
    equal = sum(top(row) == top(right) for row, right in zip(found, expected, strict=True)) / len(expected)
    largest, mean = max(differences), statistics.mean(differences)
    return AnswerCheck(
        texts=len(expected),
        max_difference=largest,
        mean_difference=mean,
        equal_labels=equal,
        failure=failure(largest, mean, equal, FLOAT32 if dtype == "float32" else FEWER_BITS),
    )


def failure(largest: float, mean: float, equal: float, tolerance: Tolerance) -> str:
    """The first tolerance that is exceeded, NaN included."""
    if not largest <= tolerance.max_difference:
        return f"a probability differs by {largest:.2g} (tolerated: {tolerance.max_difference:g})"
    if not mean <= tolerance.mean_difference:
        return f"probabilities differ by {mean:.2g} on average (tolerated: {tolerance.mean_difference:g})"
    if equal < tolerance.equal_labels:
        return f"{equal:.1%} of the top labels are equal (at least: {tolerance.equal_labels:.0%})"
    return ""


def top(scores: Scores) -> str:
    return max(scores, key=lambda label: scores[label])


def ask(base_url: str, api: Api, texts: Sequence[str], labels: Sequence[str]) -> list[Scores]:
    """The scores of each text. The first half goes one text a request, over several connections at once so that they share
    batches. The rest goes in lists. AnswerError if a request fails or its answer can't be read."""
    half = len(texts) // 2
    parts = [[text] for text in texts[:half]]
    parts += [list(texts[start : start + LIST_TEXTS]) for start in range(half, len(texts), LIST_TEXTS)]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        answers = list(pool.map(lambda part: _post(base_url, api, part), parts))
    try:
        return [scores for answer in answers for scores in api.read(answer, labels)]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise AnswerError(f"unreadable answer ({error!r}): {str(answers[0])[:300]}") from error


def _post(base_url: str, api: Api, texts: Sequence[str]) -> Any:
    load = api.load(base_url)
    request = urllib.request.Request(load.url, load.body(texts), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise AnswerError(f"status {error.code}: {error.read(300).decode('utf-8', 'replace')}") from error
    except (OSError, ValueError) as error:
        raise AnswerError(repr(error)) from error
