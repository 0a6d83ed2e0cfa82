"""What the odd checkpoints are held against is what transformers' own pipeline gives."""

from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

from tests.service import odd_architectures
from tests.service.odd_checkpoints import POISON, SERVED, reference_logits, reference_scores

TEXTS = ("good film", "the train leaves at nine on monday", f"a {POISON}")
TOLERANCE = 1e-6


@pytest.mark.parametrize("name", ["one_label", "regression", "multi_label", "vocab_txt", "bart", "gpt2"])
def test_scores_are_those_of_the_pipeline(name: str, tmp_path: Path) -> None:
    SERVED[name](tmp_path)
    found = reference_scores(tmp_path, TEXTS)
    classify = pipeline("text-classification", model=str(tmp_path), device="cpu", dtype="float32")
    labels = classify.model.config.id2label
    for text, row in zip(TEXTS, found, strict=True):
        wanted = {one["label"]: one["score"] for one in classify(text, top_k=None)}
        assert {labels[index]: score for index, score in enumerate(row.tolist())} == pytest.approx(wanted, abs=TOLERANCE)


def test_a_text_with_a_partner(tmp_path: Path) -> None:
    SERVED["multi_label"](tmp_path)
    alone, paired = reference_logits(tmp_path, [TEXTS[0], (TEXTS[0], TEXTS[1])])
    assert np.abs(alone - paired).max() > 1000 * TOLERANCE


def test_an_adapter_is_its_base_with_the_product_added(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    SERVED["adapter"](tmp_path / "adapter")
    found, wanted = (reference_logits(tmp_path / name, TEXTS) for name in ("adapter", "adapter-merged"))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.abs(reference_logits(tmp_path / "adapter-base", TEXTS) - wanted).max() > 0.1


def test_a_word_that_makes_logits_no_number(tmp_path: Path) -> None:
    SERVED["not_a_number"](tmp_path)
    assert np.isfinite(reference_logits(tmp_path, TEXTS)).all(axis=1).tolist() == [True, True, False]


@pytest.mark.parametrize("name", odd_architectures.CLASSES)
def test_odd_architectures_tell_texts_apart(name: str, tmp_path: Path) -> None:
    logits = reference_logits(odd_architectures.save(name, tmp_path), TEXTS[:2])
    assert logits.shape == (2, 3)
    assert np.abs(logits[0] - logits[1]).max() > 0.01


def test_the_word_that_one_fails_on(tmp_path: Path) -> None:
    folder = odd_architectures.save("raising", tmp_path)
    with pytest.raises(ValueError, match="can't bear"):
        reference_logits(folder, [f"a {odd_architectures.POISON}"])
