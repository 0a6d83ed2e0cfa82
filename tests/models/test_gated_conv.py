"""The gated convolutions against torch's own, applied to one unpadded text after another."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F

from models.gated_conv import GatedConvConfig, GatedConvForSequenceClassification

SIZES = {"vocab_size": 200, "embedding_size": 12, "hidden_size": 10, "initializer_range": 0.3}
# Logits are of order 1; sums over a window and a text add up in another order.
FLOAT32_NOISE = 2e-6


@pytest.fixture(params=[(1, 1), (3, 2), (5, 4), (9, 1)], ids=lambda sizes: f"window-{sizes[0]}-layers-{sizes[1]}")
def model(request):
    window, layers = request.param
    torch.manual_seed(0)
    config = GatedConvConfig(**SIZES, kernel_size=window, num_hidden_layers=layers)
    model = GatedConvForSequenceClassification(config).eval()
    with torch.no_grad():  # biases start at 0, norms at the identity: one that is left out would not show
        for name, parameter in model.named_parameters():
            if "bias" in name or "norm" in name:
                parameter.normal_(std=0.5)
    return model


def logits_of_one_text(model: GatedConvForSequenceClassification, text: tuple[int, ...]) -> torch.Tensor:
    encoder, width = model.encoder, model.config.hidden_size
    hidden = encoder.projection(encoder.embeddings.weight[list(text)])
    for layer in encoder.layers:
        normed = F.layer_norm(hidden, (width,), layer.norm.weight, layer.norm.bias, model.config.layer_norm_eps)
        kernels = layer.convolution.weight.T.unsqueeze(1)  # (channels, 1, window)
        mixed = F.conv1d(normed.T.unsqueeze(0), kernels, layer.convolution.bias, padding="same", groups=width)[0].T
        value = mixed @ layer.value_gate.weight[:width].T + layer.value_gate.bias[:width]
        gate = mixed @ layer.value_gate.weight[width:].T + layer.value_gate.bias[width:]
        hidden = hidden + layer.output(value * gate.sigmoid())
    hidden = F.layer_norm(hidden, (width,), encoder.norm.weight, encoder.norm.bias, model.config.layer_norm_eps)
    return model.classifier.weight @ torch.cat([hidden.amax(0), hidden.mean(0)]) + model.classifier.bias


class TestAgainstALoopOverTexts:
    @pytest.mark.parametrize(("left", "extra"), [(0, 0), (0, 9), (6, 0), (3, 4)])
    def test_padding_on_either_side_does_not_matter(self, model, batches, left, extra):
        expected = torch.stack([logits_of_one_text(model, text) for text in batches.texts])
        found = model(**batches.padded(left=left, extra=extra)).logits
        torch.testing.assert_close(found, expected, atol=FLOAT32_NOISE, rtol=0)

    def test_packed_texts(self, model, batches):
        expected = torch.stack([logits_of_one_text(model, text) for text in batches.texts])
        torch.testing.assert_close(model(**batches.packed()).logits, expected, atol=FLOAT32_NOISE, rtol=0)

    def test_text_of_one_token(self, model, batches):
        expected = logits_of_one_text(model, (7,))
        torch.testing.assert_close(model(torch.tensor([[7]])).logits[0], expected, atol=FLOAT32_NOISE, rtol=0)


class TestPlacesWithoutAToken:
    def test_padding_is_zero_and_packed_states_are_the_padded_ones(self, model, batches):
        padded = batches.padded(left=2, extra=3)
        hidden = model.encoder(**padded).last_hidden_state
        is_token = padded["attention_mask"].bool()
        assert hidden[~is_token].count_nonzero() == 0
        packed = model.encoder(**batches.packed()).last_hidden_state
        torch.testing.assert_close(packed[0], hidden[is_token], atol=FLOAT32_NOISE, rtol=0)

    def test_tokens_after_the_last_text_of_a_pack_are_not_read(self, model, batches):
        packed = batches.packed()
        expected = model(**packed).logits
        packed["input_ids"] = torch.cat([packed["input_ids"], torch.full((1, 5), 9)], dim=1)
        torch.testing.assert_close(model(**packed).logits, expected, atol=FLOAT32_NOISE, rtol=0)

    def test_batch_of_nothing_but_padding(self, model):
        ids = torch.zeros(2, 3, dtype=torch.int64)
        assert torch.equal(model(ids, attention_mask=ids).logits, model.classifier.bias.expand(2, -1))

    def test_empty_text_amid_a_pack(self, model, batches):
        first, *rest = batches.texts
        logits = model(**type(batches)((first, (), *rest)).packed()).logits
        expected = model(**batches.packed()).logits
        torch.testing.assert_close(logits[[0, 2, 3, 4]], expected, atol=FLOAT32_NOISE, rtol=0)

    def test_mask_of_another_shape_is_refused(self, model):
        with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 3\), but the ids have \(1, 4\)"):
            model(torch.ones(1, 4, dtype=torch.int64), attention_mask=torch.ones(1, 3))


class TestWindow:
    def test_a_token_sees_so_far_and_no_farther(self):
        torch.manual_seed(0)
        config = GatedConvConfig(**SIZES, kernel_size=5, num_hidden_layers=2)
        model = GatedConvForSequenceClassification(config).eval()
        text = torch.arange(20, 40).unsqueeze(0)
        changed = text.clone()
        changed[0, 10] = 99
        difference = (model.encoder(text).last_hidden_state - model.encoder(changed).last_hidden_state).abs().amax(-1)[0]
        assert difference.nonzero().flatten().tolist() == list(range(6, 15))


class TestConfiguration:
    def test_has_three_labels_unless_told_otherwise(self):
        assert GatedConvConfig().num_labels == 3
        assert GatedConvConfig(num_labels=2).num_labels == 2

    @pytest.mark.parametrize(
        ("field", "message"),
        [
            ({"hidden_size": 0}, "hidden_size is 0, but it must be at least 1"),
            ({"kernel_size": 4}, "kernel_size is 4, but it must be odd"),
            ({"embedding_dropout": 1.0}, r"embedding_dropout is 1\.0, but it must be at least 0 and below 1"),
            ({"pad_token_id": 10000}, "pad_token_id 10000 is not an id below vocab_size 10000"),
            ({"hidden_size": "wide"}, "expected int, got str"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_refuses_impossible_values(self, field, message):
        with pytest.raises(StrictDataclassError, match=message):
            GatedConvConfig(**field)
