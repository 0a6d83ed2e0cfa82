"""The BiLSTM against the equations of an LSTM, applied to one unpadded text after another."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from models.sentiment_lstm import SentimentLstmConfig, SentimentLstmForSequenceClassification

SIZES = {"vocab_size": 200, "embedding_size": 12, "hidden_size": 10, "initializer_range": 0.2}


@pytest.fixture(params=[1, 2, 3], ids=lambda layers: f"{layers}-layers")
def model(request):
    torch.manual_seed(0)
    config = SentimentLstmConfig(**SIZES, num_hidden_layers=request.param, hidden_dropout_prob=0.1)
    model = SentimentLstmForSequenceClassification(config).eval()
    with torch.no_grad():  # biases start at 0 and 1: a swapped pair of gates would not show
        for name, parameter in model.named_parameters():
            if "bias" in name:
                parameter.normal_(std=0.5)
    return model


def one_direction(lstm: nn.LSTM, suffix: str, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Hochreiter & Schmidhuber's cell with a forget gate, a step at a time."""
    weight_ih, weight_hh, bias_ih, bias_hh = (
        getattr(lstm, f"{name}_{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    hidden = cell = torch.zeros(lstm.hidden_size, dtype=weight_hh.dtype)
    outputs = []
    for step in inputs:
        gates = weight_ih @ step + bias_ih + weight_hh @ hidden + bias_hh
        take, forget, candidate, give = gates.chunk(4)
        cell = forget.sigmoid() * cell + take.sigmoid() * candidate.tanh()
        hidden = give.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return outputs


def logits_of_one_text(model: SentimentLstmForSequenceClassification, text: tuple[int, ...]) -> torch.Tensor:
    lstm = model.lstm.encoder.lstm
    states = list(model.lstm.embeddings.weight[list(text)])
    for layer in range(lstm.num_layers):
        forward = one_direction(lstm, f"l{layer}", states)
        backward = one_direction(lstm, f"l{layer}_reverse", states[::-1])[::-1]
        states = [torch.cat(pair) for pair in zip(forward, backward, strict=True)]
    hidden = torch.stack(states)
    return model.classifier.weight @ torch.cat([hidden.amax(0), hidden.mean(0)]) + model.classifier.bias


class TestAgainstALoopOverTexts:
    @pytest.mark.parametrize(("left", "extra"), [(0, 0), (0, 9), (6, 0), (3, 4)])
    def test_padding_on_either_side_does_not_matter(self, model, batches, left, extra):
        expected = torch.stack([logits_of_one_text(model, text) for text in batches.texts])
        found = model(**batches.padded(left=left, extra=extra)).logits
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)

    def test_packed_texts(self, model, batches):
        expected = torch.stack([logits_of_one_text(model, text) for text in batches.texts])
        torch.testing.assert_close(model(**batches.packed()).logits, expected, atol=1e-6, rtol=0)

    def test_difference_is_rounding_alone(self, model, batches):
        model.double()
        expected = torch.stack([logits_of_one_text(model, text) for text in batches.texts])
        torch.testing.assert_close(model(**batches.padded(extra=2)).logits, expected, atol=1e-13, rtol=0)

    def test_gradients(self, model, batches):
        model.double()
        names, parameters = zip(*model.named_parameters(), strict=True)
        expected = torch.autograd.grad(sum(logits_of_one_text(model, text).square().sum() for text in batches.texts), parameters)
        found = torch.autograd.grad(model(**batches.padded(extra=2)).logits.square().sum(), parameters)
        for name, left, right in zip(names, found, expected, strict=True):
            torch.testing.assert_close(left, right, atol=1e-12, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


class TestHiddenStates:
    def test_padding_is_zero_and_packed_states_are_the_padded_ones(self, model, batches):
        padded = batches.padded(left=2, extra=3)
        hidden = model.lstm(**padded).last_hidden_state
        is_token = padded["attention_mask"].bool()
        assert hidden[~is_token].count_nonzero() == 0
        packed = model.lstm(**batches.packed()).last_hidden_state
        torch.testing.assert_close(packed[0], hidden[is_token], atol=1e-6, rtol=0)

    def test_tokens_after_the_last_text_of_a_pack_are_not_read(self, model, batches):
        packed = batches.packed()
        expected = model(**packed).logits
        packed["input_ids"] = torch.cat([packed["input_ids"], torch.full((1, 5), 9)], dim=1)
        assert torch.equal(model(**packed).logits, expected)


class TestEmptyTexts:
    def test_batch_of_nothing_but_padding(self, model):
        ids = torch.zeros(2, 3, dtype=torch.int64)
        logits = model(ids, attention_mask=ids).logits
        assert torch.equal(logits, model.classifier.bias.expand(2, -1))

    def test_empty_text_amid_a_pack(self, model, batches):
        first, *rest = batches.texts
        amid = type(batches)((first, (), *rest))
        logits = model(**amid.packed()).logits
        expected = model(**batches.packed()).logits
        torch.testing.assert_close(logits[[0, 2, 3, 4]], expected, atol=1e-6, rtol=0)

    def test_mask_of_another_shape_is_refused(self, model):
        with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 3\), but the ids have \(1, 4\)"):
            model(torch.ones(1, 4, dtype=torch.int64), attention_mask=torch.ones(1, 3))


class TestInitialisation:
    @pytest.fixture
    def lstm(self) -> nn.LSTM:
        torch.manual_seed(0)
        return SentimentLstmForSequenceClassification(SentimentLstmConfig(**SIZES)).lstm.encoder.lstm

    def test_forget_biases_add_up_to_one_and_the_others_to_zero(self, lstm):
        for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
            total = getattr(lstm, f"bias_ih_{suffix}") + getattr(lstm, f"bias_hh_{suffix}")
            assert [gate.unique().tolist() for gate in total.chunk(4)] == [[0.0], [1.0], [0.0], [0.0]]

    def test_recurrent_weights_are_orthogonal_for_each_gate(self, lstm):
        for gate in lstm.weight_hh_l1_reverse.chunk(4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(10), atol=1e-5, rtol=0)

    def test_trained_biases_survive_a_load(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path)
        for suffix in ("l0", "l0_reverse"):
            name = f"bias_ih_{suffix}"
            assert torch.equal(getattr(loaded.lstm.encoder.lstm, name), getattr(model.lstm.encoder.lstm, name))


class TestConfiguration:
    def test_has_three_labels_unless_told_otherwise(self):
        assert SentimentLstmConfig().num_labels == 3
        assert SentimentLstmConfig(num_labels=2).num_labels == 2
        assert SentimentLstmConfig(id2label={0: "no", 1: "yes"}).num_labels == 2

    @pytest.mark.parametrize(
        ("field", "message"),
        [
            ({"hidden_size": 0}, "hidden_size is 0, but it must be at least 1"),
            ({"num_hidden_layers": -1}, "num_hidden_layers is -1, but it must be at least 1"),
            ({"classifier_dropout": 1.0}, r"classifier_dropout is 1\.0, but it must be at least 0 and below 1"),
            ({"pad_token_id": 12000}, "pad_token_id 12000 is not an id below vocab_size 12000"),
            ({"hidden_size": "wide"}, "expected int, got str"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_refuses_impossible_values(self, field, message):
        with pytest.raises(StrictDataclassError, match=message):
            SentimentLstmConfig(**field)
