"""The masked language model against transformers' with the same weights, and what a classifier takes from it."""

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, BertConfig, BertForMaskedLM

from models.custom_bert import CustomBertConfig, CustomBertForMaskedLM

# Both compute the same float32 products, of order 1, and add them up in an order that the backend chooses.
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}

SIZES = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# transformers' names, and ours.
RENAMED = {
    "cls.predictions.transform.dense": "predictions.dense",
    "cls.predictions.transform.LayerNorm": "predictions.LayerNorm",
    "cls.predictions.decoder": "predictions.decoder",
}


@pytest.fixture
def pair() -> tuple[BertForMaskedLM, CustomBertForMaskedLM]:
    """(transformers' model, ours), with equal weights, none of them at its initial value."""
    torch.manual_seed(0)
    reference = BertForMaskedLM(BertConfig(**SIZES)).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    ours = CustomBertForMaskedLM(CustomBertConfig(**SIZES)).eval()
    state = {}
    for name, tensor in reference.state_dict().items():
        stem, _, leaf = name.rpartition(".")
        if name != "cls.predictions.bias":  # the decoder's, by another name
            state[f"{RENAMED.get(stem, stem)}.{leaf}"] = tensor
    ours.load_state_dict(state)
    return reference, ours


@pytest.fixture
def masked() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(11) < torch.tensor([[11], [4], [1], [7]])).long()
    ids = torch.randint(1, SIZES["vocab_size"], (4, 11), generator=generator)
    asked = (torch.rand(4, 11, generator=generator) < 0.3) & mask.bool()
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(~asked, -100)}


def test_logits_and_loss_are_those_of_transformers(pair, masked):
    expected, found = (model(**masked) for model in pair)
    torch.testing.assert_close(found.logits, expected.logits, **TOLERANCE)
    torch.testing.assert_close(found.loss, expected.loss, **TOLERANCE)


def test_in_training_only_what_is_asked_is_scored_with_the_same_loss_and_gradients(pair, masked):
    reference, ours = (model.train() for model in pair)
    expected, found = reference(**masked), ours(**masked)
    asked = masked["labels"] != -100
    torch.testing.assert_close(found.logits, expected.logits[asked], **TOLERANCE)
    torch.testing.assert_close(found.loss, expected.loss, **TOLERANCE)
    expected.loss.backward()
    found.loss.backward()
    gradients = [model.get_input_embeddings().weight.grad for model in pair]
    torch.testing.assert_close(gradients[1], gradients[0], **TOLERANCE)


def test_a_pack_has_the_logits_of_its_texts(pair, batches):
    _, ours = pair
    padded, packed = batches.padded(), batches.packed()
    expected = ours(**padded).logits[padded["attention_mask"].bool()]
    torch.testing.assert_close(ours(**packed).logits[0], expected, **TOLERANCE)


def test_output_matrix_is_the_embeddings_after_a_load_through_the_auto_class_too(pair, tmp_path):
    _, ours = pair
    ours.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert type(loaded) is CustomBertForMaskedLM
    assert loaded.predictions.decoder.weight is loaded.bert.embeddings.word_embeddings.weight
    assert loaded.num_parameters() == ours.num_parameters()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_a_classifier_starts_from_its_encoder(pair, tmp_path):
    _, ours = pair
    ours.save_pretrained(tmp_path)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    for name, tensor in ours.bert.state_dict().items():
        assert torch.equal(classifier.bert.state_dict()[name], tensor), name


def test_the_vocabulary_grows_on_both_ends(pair, masked):
    _, ours = pair
    ours.resize_token_embeddings(130)
    assert ours.predictions.decoder.out_features == 130
    assert ours.predictions.decoder.weight is ours.get_input_embeddings().weight
    assert ours(**masked).logits.shape == (4, 11, 130)
