"""A temperature is found, is folded into the output layer, and changes no text's class."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, RobertaConfig
from transformers import RobertaForSequenceClassification as Roberta

from examples.keyword_pooling.architecture import KeywordPoolingConfig, KeywordPoolingForSequenceClassification
from models.loading import CHECKPOINTS
from models.sentiment_lstm import SentimentLstmConfig, SentimentLstmForSequenceClassification
from models.training.calibration import (
    Calibration,
    Judged,
    OutputLayerError,
    calibrate,
    fit_temperature,
    fold_temperature,
    output_layer,
)
from models.training.data import Example
from models.training.evaluation import BINS, reliability
from models.training.inference import predict_logits
from models.training.reliability import DIAGRAM, draw
from tokenizers_store.training import train_tokenizer

TEXTS = ["a good film", "a bad film", "the film", "good good", "bad", "a film of a good day and a bad one"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": 3}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS * 5, kind="wordpiece", vocab_size=60, show_progress=False)


def bert() -> BertForSequenceClassification:
    return BertForSequenceClassification(BertConfig(vocab_size=60, **SIZES))


class SharpBert(BertForSequenceClassification):
    """Its logits are not what its last linear layer gives."""

    def forward(self, *args: object, **kwargs: object) -> object:
        outputs = super().forward(*args, **kwargs)
        outputs.logits = outputs.logits.tanh() + 1
        return outputs


def drawn(temperature: float, *, count: int = 20_000, seed: int = 0) -> Judged:
    """Logits whose labels were drawn at a temperature."""
    chance = torch.Generator().manual_seed(seed)
    logits_SC = 3 * torch.randn(count, 3, generator=chance)
    return Judged(logits_SC, torch.multinomial((logits_SC / temperature).softmax(-1), 1, generator=chance).squeeze(1))


# Half sure in one part, twice: 0.55 and 0.65 are in the parts that end at 9/15 and 10/15.
@pytest.mark.parametrize(
    ("confidences", "right", "error"),
    [
        ([0.9, 0.9], [True, False], 0.4),
        ([1.0, 1.0, 1.0], [True, True, True], 0.0),
        ([0.55, 0.55, 0.65, 0.65], [True, False, True, True], (2 * 0.05 + 2 * 0.35) / 4),
        ([0.59, 0.55], [True, False], 0.07),  # one part: the mean of both is held against one right in two
        ([0.59, 0.61], [True, False], (0.41 + 0.61) / 2),  # two parts
        ([0.6, 0.59], [True, False], 0.095),  # a part holds its upper end
    ],
)
def test_the_calibration_error_of_cases_worked_by_hand(confidences: list[float], right: list[bool], error: float) -> None:
    found = reliability(confidences, right)
    assert found.error == pytest.approx(error)
    assert found.counts_B.sum() == len(right)
    assert found.counts_B.shape == (BINS,)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 3.0])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    found = fit_temperature([drawn(temperature)])
    assert found == pytest.approx(temperature, rel=0.08)
    assert drawn(temperature, seed=1).reliability(found).error < 0.02


def test_each_set_counts_alike_whatever_its_size() -> None:
    few, many = drawn(1.0, count=4_000), drawn(2.0, count=40_000)
    assert fit_temperature([few, many]) == pytest.approx(fit_temperature([few, many.half(0)]), rel=0.05)
    assert 1.1 < fit_temperature([few, many]) < 1.9


@pytest.mark.parametrize(
    "model",
    [
        bert(),
        Roberta(RobertaConfig(vocab_size=60, **SIZES)),
        SentimentLstmForSequenceClassification(SentimentLstmConfig(vocab_size=60, hidden_size=8, num_labels=3)),
        KeywordPoolingForSequenceClassification(KeywordPoolingConfig(vocab_size=60, num_labels=3)),
    ],
    ids=lambda model: model.config.model_type,
)
def test_folding_divides_the_logits_and_leaves_every_class(model: nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    before = predict_logits(model, tokenizer, TEXTS)
    fold_temperature(model, tokenizer, 1.6, text=TEXTS[0])
    after = predict_logits(model, tokenizer, TEXTS)
    assert torch.allclose(after * 1.6, before, atol=1e-6)
    assert after.argmax(-1).equal(before.argmax(-1))


def test_a_model_of_other_logits_is_refused_and_left_as_it_was(tokenizer: PreTrainedTokenizerFast) -> None:
    model = SharpBert(BertConfig(vocab_size=60, **SIZES))
    before = predict_logits(model, tokenizer, TEXTS)
    with pytest.raises(OutputLayerError, match="SharpBert: its logits are not what its last linear layer gives"):
        fold_temperature(model, tokenizer, 1.6, text=TEXTS[0])
    assert predict_logits(model, tokenizer, TEXTS).equal(before)


def test_a_model_without_such_a_layer_is_refused() -> None:
    model = bert()
    model.classifier = nn.Bilinear(16, 16, 3)
    with pytest.raises(OutputLayerError, match="no linear layer with 3 outputs, one for each label"):
        output_layer(model)


def examples(labels: Sequence[int], *, source: str) -> list[Example]:
    return [Example(f"{TEXTS[label]} {number}", label, source) for number, label in enumerate(labels)]


@pytest.fixture(scope="module")
def calibration(tokenizer: PreTrainedTokenizerFast) -> Calibration:
    torch.manual_seed(0)
    model = bert()
    sets = {"fitted": examples([0, 1, 2, 1, 2, 0, 0, 2], source="a")}
    before = predict_logits(model, tokenizer, TEXTS)
    found = calibrate(model, tokenizer, fit_on=sets, judge_on={"other": examples([0, 1], source="b"), "empty": []})
    assert torch.allclose(predict_logits(model, tokenizer, TEXTS) * found.temperature, before, atol=1e-6)
    return found


def test_a_calibration_is_told_set_by_set(calibration: Calibration) -> None:
    assert (list(calibration.before), calibration.fitted, list(calibration.held_out)) == (
        ["fitted", "other"],
        ["fitted"],
        ["fitted"],
    )
    lines = str(calibration).splitlines()
    assert lines[0] == f"The logits were divided by {calibration.temperature:.3f}, fitted on fitted; the weights hold it."
    before, after = (100 * each["other"].error for each in (calibration.before, calibration.after))
    assert lines[-1] == f"| other (2) | {before:.1f} | {after:.1f} | not fitted on |"


def test_the_diagram_is_a_small_picture(calibration: Calibration, tmp_path: Path) -> None:
    content = draw(tmp_path, calibration).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 40_000
    assert (tmp_path / DIAGRAM).is_file()


@pytest.mark.parametrize("card", sorted(CHECKPOINTS.glob("*/README.md")), ids=lambda card: card.parent.name)
def test_the_shipped_cards_show_their_diagrams(card: Path) -> None:
    assert f"]({DIAGRAM})" in card.read_text(encoding="utf-8")
    assert 0 < (card.parent / DIAGRAM).stat().st_size < 40_000
