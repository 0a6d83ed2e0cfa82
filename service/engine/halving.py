"""A batch that failed: its texts are tried in ever smaller parts, so that one bad text fails alone."""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from service.engine.engine import Engine
from service.engine.faults import FAULTS_OF_TEXTS, cuda_answers, is_out_of_memory
from service.engine.packs import FloatArray, TextIds

log = logging.getLogger("valence.worker")
Relieve = Callable[[int], None]


def not_told(tokens: int) -> None:
    """For whoever need not know that memory does not hold a lone text."""


def score(
    engine: Engine, texts: Sequence[TextIds], *, relieve: Relieve, too_large: Relieve = not_told
) -> tuple[FloatArray, frozenset[int]]:
    """Logits (texts, labels), and the places of the texts that the model raised on. Their rows mean nothing."""
    try:
        return engine.logits(texts), frozenset()
    except FAULTS_OF_TEXTS as error:
        return score_halves(engine, texts, error, relieve=relieve, too_large=too_large)


def score_halves(
    engine: Engine, texts: Sequence[TextIds], error: Exception, *, relieve: Relieve, too_large: Relieve = not_told
) -> tuple[FloatArray, frozenset[int]]:
    """What `score` gives, for a batch that failed.

    The batch is halved until the text at fault stands alone, so that its neighbours get their scores. `relieve` is told how many
    tokens were in a batch that memory did not hold, `too_large` how many were in a text that it did not hold alone."""
    if is_out_of_memory(error):
        (relieve if len(texts) > 1 else too_large)(sum(len(text.ids) for text in texts))
    elif engine.device.type == "cuda" and not cuda_answers():
        raise error  # a CUDA error that sticks: the process must be replaced
    if len(texts) == 1:
        log.warning("the model failed on a text: %s", type(error).__name__, extra={"tokens": len(texts[0].ids)})
        return np.zeros((1, 1), dtype=np.float32), frozenset({0})
    middle = len(texts) // 2
    first, first_failed = score(engine, texts[:middle], relieve=relieve, too_large=too_large)
    second, second_failed = score(engine, texts[middle:], relieve=relieve, too_large=too_large)
    return _stacked(first, second), first_failed | {middle + place for place in second_failed}


def _stacked(first: FloatArray, second: FloatArray) -> FloatArray:
    """The rows of both halves. A half in which every text failed has one column, and gets zeros for all labels."""
    labels = max(first.shape[1], second.shape[1])
    return np.concatenate(
        [rows if rows.shape[1] == labels else np.zeros((len(rows), labels), rows.dtype) for rows in (first, second)]
    )
