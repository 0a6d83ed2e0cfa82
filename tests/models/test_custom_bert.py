"""The custom BERT against transformers' BERT with the same weights."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import BertConfig, BertForSequenceClassification, BertModel

from models.custom_bert import CustomBertConfig, CustomBertForSequenceClassification, CustomBertModel

# Both compute the same float32 products, of order 1, and add them up in an order that the backend chooses.
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}

SIZES = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,
    "num_labels": 3,
}


@pytest.fixture(params=["eager", "sdpa"])
def pair(request):
    """(transformers' classifier, ours), in evaluation mode, with equal weights, none of them at its initial value."""
    torch.manual_seed(0)
    reference = BertForSequenceClassification._from_config(BertConfig(**SIZES), attn_implementation=request.param).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    ours = CustomBertForSequenceClassification._from_config(CustomBertConfig(**SIZES), attn_implementation=request.param).eval()
    ours.load_state_dict(reference.state_dict())
    return reference, ours


@pytest.fixture
def padded():
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(11) < torch.tensor([[11], [4], [1], [7]])).long()
    ids = torch.randint(1, SIZES["vocab_size"], (4, 11), generator=generator)
    types = torch.randint(0, 2, (4, 11), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def assert_all_close(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    assert len(found) == len(expected)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, **TOLERANCE)


class TestAgainstTransformers:
    def test_state_dict_has_the_same_names_and_shapes(self, pair):
        reference, ours = pair
        shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in (reference, ours)]
        assert shapes[0] == shapes[1]

    def test_base_model_outputs(self, pair, padded):
        expected, found = (model.bert(**padded, output_hidden_states=True) for model in pair)
        assert_all_close((found.last_hidden_state, found.pooler_output), (expected.last_hidden_state, expected.pooler_output))
        assert_all_close(found.hidden_states, expected.hidden_states)

    @pytest.mark.parametrize("pair", ["eager"], indirect=True)  # no other backend has probabilities to give
    def test_attentions(self, pair, padded):
        expected, found = (model.bert(**padded, output_attentions=True).attentions for model in pair)
        assert_all_close(found, expected)

    @pytest.mark.parametrize("left_out", ["attention_mask", "token_type_ids"])
    def test_defaults_of_what_is_left_out(self, pair, padded, left_out):
        del padded[left_out]
        expected, found = (model.bert(**padded) for model in pair)
        assert_all_close((found.last_hidden_state,), (expected.last_hidden_state,))

    def test_given_positions(self, pair, padded):
        positions = torch.arange(11).flip(0).unsqueeze(0)
        expected, found = (model(**padded, position_ids=positions).logits for model in pair)
        assert_all_close((found,), (expected,))

    def test_logits_and_loss(self, pair, padded):
        expected, found = (model(**padded, labels=torch.tensor([0, 2, 1, 1])) for model in pair)
        assert_all_close((found.logits, found.loss), (expected.logits, expected.loss))

    def test_all_gradients(self, pair, padded):
        for model in pair:
            model(**padded, labels=torch.tensor([0, 2, 1, 1])).loss.backward()
        reference, ours = (dict(model.named_parameters()) for model in pair)
        for name, parameter in reference.items():
            torch.testing.assert_close(
                ours[name].grad, parameter.grad, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}"
            )

    def test_without_a_pooler(self, padded):
        torch.manual_seed(0)
        reference = BertModel(BertConfig(**SIZES), add_pooling_layer=False).eval()
        ours = CustomBertModel(CustomBertConfig(**SIZES), add_pooling_layer=False).eval()
        ours.load_state_dict(reference.state_dict())
        found = ours(**padded)
        assert found.pooler_output is None
        assert_all_close((found.last_hidden_state,), (reference(**padded).last_hidden_state,))


class TestInference:
    """What a classifier may leave out, or do in one step, without another result."""

    @pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_logits_with_and_without_all_of_the_last_layer(self, batches, attention, packed):
        model = CustomBertForSequenceClassification._from_config(CustomBertConfig(**SIZES), attn_implementation=attention).eval()
        inputs = batches.packed() if packed else batches.padded()
        whole = model(**inputs, output_hidden_states=True)
        assert len(whole.hidden_states) == SIZES["num_hidden_layers"] + 1
        assert whole.hidden_states[-1].shape[1] == inputs["input_ids"].shape[1]
        torch.testing.assert_close(model(**inputs).logits, whole.logits, **TOLERANCE)

    def test_the_last_layer_computes_first_tokens_only(self, batches):
        model = CustomBertForSequenceClassification(CustomBertConfig(**SIZES)).eval()
        seen = []
        model.bert.encoder.layer[-1].intermediate.register_forward_hook(lambda *hooked: seen.append(hooked[-1].shape[1]))
        model(**batches.padded())
        model.bert(**batches.padded())
        assert seen == [1, batches.padded()["input_ids"].shape[1]]

    def test_fused_projections(self, batches):
        model = CustomBertForSequenceClassification._from_config(CustomBertConfig(**SIZES), attn_implementation="packed").eval()
        expected = model(**batches.packed()).logits
        model.fuse_projections()
        torch.testing.assert_close(model(**batches.packed()).logits, expected, **TOLERANCE)


class TestPackedInput:
    def test_token_types_belong_to_their_text(self, batches):
        torch.manual_seed(0)
        model = CustomBertForSequenceClassification(CustomBertConfig(**SIZES)).eval()
        padded, packed = batches.padded(), batches.packed()
        types = (padded["input_ids"] > 40).long()
        expected = model(**padded, token_type_ids=types).logits
        flat_types = types[padded["attention_mask"].bool()].unsqueeze(0)
        assert_all_close((model(**packed, token_type_ids=flat_types).logits,), (expected,))

    def test_packed_attention_refuses_a_padded_batch(self, batches):
        model = CustomBertForSequenceClassification._from_config(CustomBertConfig(**SIZES), attn_implementation="packed")
        with pytest.raises(ValueError, match="cu_seq_lens_q"):
            model(**batches.padded())


class TestLimits:
    def test_text_longer_than_the_position_table_is_refused(self):
        model = CustomBertModel(CustomBertConfig(**SIZES))
        with pytest.raises(ValueError, match="25 tokens exceed max_position_embeddings 24"):
            model(torch.ones(1, 25, dtype=torch.int64))

    def test_heads_must_divide_the_width(self):
        with pytest.raises(StrictDataclassError, match="hidden_size 30 is not a multiple of num_attention_heads 4"):
            CustomBertConfig(**SIZES | {"hidden_size": 30})

    def test_classifier_dropout_falls_back_to_the_hidden_one(self):
        rates = [
            CustomBertForSequenceClassification(CustomBertConfig(**SIZES, **given)).dropout.p
            for given in ({"hidden_dropout_prob": 0.3}, {"hidden_dropout_prob": 0.3, "classifier_dropout": 0.0})
        ]
        assert rates == [0.3, 0.0]
