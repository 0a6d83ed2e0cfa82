"""Embeddings from counts: a case counted by hand, and neighbours that share contexts."""

import pytest
import torch

from models.training.recipes.cooccurrence import SPREAD, WINDOW, cooccurrence_embeddings, cooccurrences


def test_neighbours_are_counted_in_both_orders_within_the_window() -> None:
    counts = cooccurrences([[1, 2, 2], [3]], vocab_size=4).toarray()
    assert counts.tolist() == [[0, 0, 0, 0], [0, 0, 2, 0], [0, 2, 2, 0], [0, 0, 0, 0]]


def test_what_is_farther_apart_does_not_count() -> None:
    text = list(range(WINDOW + 2))
    counts = cooccurrences([text], vocab_size=len(text)).toarray()
    assert (counts[0, WINDOW], counts[0, WINDOW + 1]) == (1, 0)


def test_tokens_of_the_same_contexts_lie_close() -> None:
    # 2 and 3 stand between 4 and 5, 6 and 7 between 8 and 9
    texts = [[4, first, 5] for first in (2, 3)] * 5 + [[8, second, 9] for second in (6, 7)] * 5
    embeddings = cooccurrence_embeddings(texts, vocab_size=10, width=4, pad_token_id=0)
    assert embeddings.shape == (10, 4)
    close, far = (torch.cosine_similarity(embeddings[2], embeddings[other], dim=0).item() for other in (3, 6))
    assert close > 0.99 > 0.5 > far
    assert embeddings[0].count_nonzero() == 0
    torch.testing.assert_close(embeddings[1], torch.zeros(4))  # 1 occurs nowhere
    assert embeddings.std().item() == pytest.approx(SPREAD, rel=0.05)
