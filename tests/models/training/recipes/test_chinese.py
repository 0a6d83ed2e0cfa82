"""What the Chinese classifier learns from beside whole reviews."""

from collections import Counter

import pytest

from models.training.data import Example
from models.training.recipes import chinese
from models.training.recipes.chinese import CONJUNCTIONS, clause_examples, contrast_examples, with_soft_labels

LONG = "这是一个比二十个字还要长得多的句子所以它不能算"


def test_a_clause_keeps_the_label_and_knows_its_review() -> None:
    reviews = [Example(text, 0, "a") for text in ("房间很大，就是有点吵！不会再来", "好", f"物流快。{LONG}")]
    clauses, origins = clause_examples(reviews)
    assert origins == [0, 2]
    assert clauses[0] in [Example(text, 0, "a") for text in ("房间很大", "就是有点吵", "不会再来")]
    assert clauses[1] == Example("物流快", 0, "a")


def test_the_second_half_of_a_contrast_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chinese, "CONTRASTS", 40)
    contrasts = contrast_examples([Example("太吵", 0, "a"), Example("干净", 1, "a")])
    sides = {0: ("干净", "太吵"), 1: ("太吵", "干净")}
    allowed = {Example(form.format(*sides[label]), label, "a") for form in CONJUNCTIONS for label in sides}
    assert len(contrasts) == 40
    assert set(contrasts) <= allowed
    assert Counter(contrast.label for contrast in contrasts).keys() == {0, 1}


def test_clauses_of_one_class_make_no_contrast() -> None:
    assert contrast_examples([Example("太吵", 0, "a")] * 3) == []


def test_every_text_has_soft_labels_that_lean_to_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chinese, "CONTRASTS", 10)
    reviews = [Example(f"房间{word}，第{n}次来", label, "a") for n in range(30) for word, label in (("干净", 1), ("太吵", 0))]
    texts, logits = with_soft_labels(reviews, [Example("😍", 1, "emoji"), Example("😡", 0, "emoji")])
    assert logits.shape == (len(texts), 2)
    assert len(texts) == 60 + 60 + 2 + 10
    assert [logits[index].argmax().item() for index in range(60)] == [review.label for review in reviews]
    assert [row.argmax().item() for row in logits[-10:]] == [text.label for text in texts[-10:]]
    assert with_soft_labels(reviews, [])[0] == with_soft_labels(reviews, [])[0]
