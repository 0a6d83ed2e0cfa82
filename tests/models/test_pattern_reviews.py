"""The comparison of attention patterns on long reviews, on made-up ones."""

from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from models.attention import reviews
from models.loading import TOKENIZERS
from models.training.data import Example
from models.training.recipes.table import BERT

TEXTS = [
    Example(
        f"{'a wonderful film ' if number % 2 else 'an awful film '} number {number} " + "and so on " * 30,
        2 * (number % 2),
        "imdb",
    )
    for number in range(40)
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviews, "read_package", lambda *_, **__: TEXTS)
    monkeypatch.setattr(reviews, "CHOSEN_BY", 8)
    monkeypatch.setattr(reviews, "TESTED", 8)
    monkeypatch.setattr(reviews, "WIDTH", 32)
    monkeypatch.setattr(reviews, "SCHEDULE", replace(reviews.SCHEDULE, epochs=1, batch_size=4))


def test_a_pattern_is_trained_and_tested():
    fields = {"window": 128, "random_blocks": 2, "global_tokens": 1}
    accuracy, spent = reviews.trained("bigbird", fields, reviews=16, tokens=80)
    assert 0 <= accuracy <= 1
    assert spent.time_s > 0


def test_no_review_is_both_learnt_from_and_tested_on():
    splits = reviews.long_reviews(AutoTokenizer.from_pretrained(TOKENIZERS / BERT.name), reviews=16, tokens=80)
    parts = [{example.text for example in part} for part in (splits.train, splits.dev, splits.test)]
    assert [len(part) for part in parts] == [16, 8, 8]
    assert len(set.union(*parts)) == 32
    assert {example.label for example in splits.train} == {0, 1}


def test_too_few_long_reviews_are_told():
    with pytest.raises(ValueError, match="41 reviews of 80 tokens are needed, but there are 40; ask for fewer"):
        reviews.long_reviews(AutoTokenizer.from_pretrained(TOKENIZERS / BERT.name), reviews=25, tokens=80)
