"""Integer linear layers: exact sums, rows that do not touch each other, and ranges that belong to their weights."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from models.custom_bert import CustomBertConfig, CustomBertForSequenceClassification
from models.int8 import RANGES_FILE, Int8Linear, RangesError, load_ranges, observe_ranges, quantize_linears, save_ranges
from models.int8.__main__ import main
from models.int8.linear import ACTIVATION_MAX, FbgemmLinear, OneDnnLinear, has_fbgemm, int8_linear, weight_max
from models.sentiment_lstm import SentimentLstmConfig, SentimentLstmForSequenceClassification
from tokenizers_store.training import train_tokenizer

SIZES = {"vocab_size": 2000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
TEXTS = ["a fine day", "not good at all", "the train leaves at nine", "what a dreadful, dreadful film", "yes"]


KINDS = [OneDnnLinear, *([FbgemmLinear] if has_fbgemm() else [])]


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(96, 80)


@pytest.fixture(params=KINDS)
def quantized_kind(request):
    """Each kind of product that this machine has."""
    return request.param


@pytest.fixture
def inputs():
    """Rows whose channels differ in width and middle, as a transformer's do."""
    generator = torch.Generator().manual_seed(1)
    width, middle = torch.linspace(0.05, 8, 96), torch.linspace(-1, 1, 96)
    return torch.randn(40, 96, generator=generator) * width + middle


def ranges_of(inputs: torch.Tensor) -> torch.Tensor:
    return torch.stack([inputs.amin(0), inputs.amax(0)])


@pytest.fixture
def bert():
    torch.manual_seed(0)
    return CustomBertForSequenceClassification(CustomBertConfig(**SIZES, initializer_range=0.1)).eval()


@pytest.fixture
def checkpoint(bert, tmp_path):
    """A folder with weights and a tokenizer."""
    tokenizer: PreTrainedTokenizerFast = train_tokenizer(TEXTS, kind="wordpiece", vocab_size=300, show_progress=False)
    bert.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


class TestInt8Linear:
    def test_is_near_the_float_layer(self, quantized_kind, layer, inputs):
        found = quantized_kind(layer, ranges_of(inputs))(inputs)
        expected = layer(inputs)
        # a 7-bit weight is off by up to 1/128 of the widest of its row, and random signs partly cancel over 96 products
        assert (found - expected).abs().mean() < 0.03 * expected.std()

    def test_a_row_does_not_depend_on_the_others(self, quantized_kind, layer, inputs):
        quantized = quantized_kind(layer, ranges_of(inputs))
        together = quantized(inputs)
        for rows in (slice(0, 1), slice(3, 8), slice(7, 40)):
            assert torch.equal(quantized(inputs[rows]), together[rows])

    def test_leading_shapes_are_kept(self, quantized_kind, layer, inputs):
        quantized = quantized_kind(layer, ranges_of(inputs))
        assert torch.equal(quantized(inputs.view(2, 20, 96)), quantized(inputs).view(2, 20, 80))

    def test_the_largest_sums_do_not_saturate(self, quantized_kind):
        """Every product at its largest: 16-bit additions would cut it off, as they do for weights of 127 without VNNI."""
        layer = nn.Linear(64, 32, bias=False)
        nn.init.constant_(layer.weight, 0.5)
        ranges_2K = torch.tensor([-1.0, 1.0]).unsqueeze(1).expand(2, 64)
        highest = quantized_kind(layer, ranges_2K)(torch.full((3, 64), 10.0))
        step = 1 / 127
        torch.testing.assert_close(highest, torch.full((3, 32), 0.5 * 64 * (ACTIVATION_MAX - 128) * step), atol=1e-3, rtol=0)

    def test_values_outside_the_ranges_are_clipped(self, quantized_kind, layer, inputs):
        quantized = quantized_kind(layer, ranges_of(inputs))
        outside = torch.full((1, 96), 1e6)
        assert quantized(outside).isfinite().all()
        assert torch.equal(quantized(outside), quantized(2 * outside))

    def test_dead_channels_do_no_harm(self, quantized_kind, layer, inputs):
        inputs[:, 5:9] = 0
        layer.weight.data[:, 20] = 0
        layer.weight.data[7] = 0
        found = quantized_kind(layer, ranges_of(inputs))(inputs)
        assert found.isfinite().all()
        torch.testing.assert_close(found[:, 7], layer.bias[7].expand(40), atol=1e-6, rtol=0)

    def test_a_torch_that_dropped_fbgemm_gets_onednn(self, layer, inputs, monkeypatch):
        monkeypatch.delattr(torch, "_make_per_channel_quantized_tensor", raising=False)
        assert type(int8_linear(layer, ranges_of(inputs))) is OneDnnLinear

    def test_weights_fit_the_processor(self):
        assert weight_max() == (127 if torch.cpu._is_vnni_supported() else 64)


class TestQuantizeLinears:
    def test_logits_stay_near_and_the_classifier_stays_float(self, bert, batches):
        ids = [list(text) for text in batches.texts]
        expected = bert(**batches.padded()).logits
        quantize_linears(bert, observe_ranges(bert, ids))
        assert isinstance(bert.bert.encoder.layer[0].intermediate.dense, Int8Linear)
        assert type(bert.classifier) is nn.Linear
        torch.testing.assert_close(bert(**batches.padded()).logits, expected, atol=0.05, rtol=0)

    def test_layers_that_see_one_row_a_text_have_ranges_too(self, bert, batches):
        names = observe_ranges(bert, [list(text) for text in batches.texts])
        assert {"bert.pooler.dense", "bert.encoder.layer.1.intermediate.dense"} <= set(names)

    def test_a_name_without_a_layer_is_refused(self, bert):
        with pytest.raises(KeyError, match="nowhere"):
            quantize_linears(bert, {"nowhere": torch.zeros(2, 64)})


class TestRangesFile:
    def test_survives_a_round_trip(self, bert, checkpoint, batches):
        ranges = observe_ranges(bert, [list(text) for text in batches.texts])
        save_ranges(checkpoint, ranges)
        loaded = load_ranges(checkpoint)
        assert loaded.keys() == ranges.keys()
        assert all(torch.equal(loaded[name], ranges[name]) for name in ranges)

    def test_missing_is_refused_with_the_command_to_make_it(self, checkpoint):
        with pytest.raises(RangesError, match=r"int8_ranges.safetensors: no such file.*python -m models.int8"):
            load_ranges(checkpoint)

    def test_of_other_weights_is_refused(self, bert, checkpoint):
        save_ranges(checkpoint, {"layer": torch.zeros(2, 64)})
        bert.classifier.bias.data += 1
        bert.save_pretrained(checkpoint)
        with pytest.raises(RangesError, match="made for other weights"):
            load_ranges(checkpoint)

    def test_broken_is_refused(self, checkpoint):
        (checkpoint / RANGES_FILE).write_bytes(b"\x08\x00\x00\x00")
        with pytest.raises(RangesError, match=RANGES_FILE):
            load_ranges(checkpoint)

    def test_without_a_fingerprint_is_refused(self, checkpoint):
        save_file({"layer": torch.zeros(2, 64)}, checkpoint / RANGES_FILE)
        with pytest.raises(RangesError, match="made for other weights"):
            load_ranges(checkpoint)


class TestCommand:
    @pytest.fixture
    def texts(self, tmp_path):
        path = tmp_path / "texts.txt"
        path.write_text("\n".join([*TEXTS, ""]), encoding="utf-8")
        return path

    def test_writes_the_ranges(self, checkpoint, texts, capsys):
        assert main([str(checkpoint), "--texts", str(texts)]) == 0
        assert "11 linear layers over 5 texts" in capsys.readouterr().out
        assert "bert.encoder.layer.0.attention.self.query_key_value" in load_ranges(checkpoint)

    def test_a_model_without_such_layers_gets_an_empty_file(self, checkpoint, texts, capsys):
        SentimentLstmForSequenceClassification(SentimentLstmConfig(vocab_size=2000)).save_pretrained(checkpoint)
        assert main([str(checkpoint), "--texts", str(texts)]) == 0
        assert "it will be served in float32" in capsys.readouterr().out
        assert load_ranges(checkpoint) == {}

    def test_no_text_is_an_error(self, checkpoint, texts, capsys):
        texts.write_text("\n \n", encoding="utf-8")
        assert main([str(checkpoint), "--texts", str(texts)]) == 2
        assert "no text in it" in capsys.readouterr().err


@pytest.mark.parametrize("value", [0.0, 0.7, -3.0])
def test_a_channel_that_never_changed_still_gives_numbers(layer, quantized_kind, value):
    ranges_2K = torch.stack([torch.full((96,), -1.0), torch.full((96,), 1.0)])
    ranges_2K[:, 5] = value
    inputs_MK = torch.rand(7, 96) * 2 - 1
    inputs_MK[:, 5] = value
    found = quantized_kind(layer, ranges_2K)(inputs_MK)
    torch.testing.assert_close(found, layer(inputs_MK), atol=0.1, rtol=0)
