"""Packing of encoders that transformers ships, and the attention window that one of them asks for."""

from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto import CONFIG_MAPPING

from models import register_architectures
from models.attention import enable_packing, stock
from models.attention.packed import packed_attention_forward

register_architectures()

# What models/README.md lists: packed, and padded.
PACKED = (
    *("albert", "bert", "camembert", "data2vec-text", "distilbert", "electra", "ernie", "modernbert", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"),
)
PADDED = ("deberta-v2", "esm", "eurobert", "fnet", "layoutlm", "mobilebert", "mpnet", "nomic_bert", "rembert")
SIZES = {
    "hidden_size": 32, "dim": 32, "embedding_size": 32, "intermediate_size": 48, "hidden_dim": 48,
    "num_hidden_layers": 3, "n_layers": 3, "num_attention_heads": 4, "n_heads": 4,
    "vocab_size": 200, "max_position_embeddings": 256, "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip


def tiny(model_type: str, **fields: Any) -> PreTrainedModel:
    config_class = CONFIG_MAPPING[model_type]
    known = config_class().to_dict().keys() | {"vocab_size"}
    config = config_class(**{name: value for name, value in SIZES.items() if name in known}, **fields)
    config.num_labels = 3
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).eval()


@torch.inference_mode()
def score(model: PreTrainedModel, texts: list[torch.Tensor], *, packed: bool) -> torch.Tensor:
    if not packed:
        model.set_attn_implementation("eager")
        return torch.cat([model(input_ids=text).logits for text in texts])
    model.set_attn_implementation("packed")
    lengths = [text.shape[1] for text in texts]
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    return model(
        input_ids=torch.cat(texts, dim=1), position_ids=positions, cu_seq_lens_q=bounds, cu_seq_lens_k=bounds,
        max_length_q=max(lengths), max_length_k=max(lengths),
    ).logits  # fmt: skip


def texts_of(*lengths: int) -> list[torch.Tensor]:
    return [torch.randint(3, 200, (1, length)) for length in lengths]


@pytest.mark.parametrize("model_type", PACKED)
def test_a_pack_scores_as_its_texts_alone(model_type: str) -> None:
    model = tiny(model_type)
    assert enable_packing(model)
    texts = texts_of(5, 5, 11, 40, 200)
    alone = score(model, texts, packed=False)
    torch.testing.assert_close(score(model, texts, packed=True), alone, atol=2e-5, rtol=0)
    assert (alone[0] - alone[1:]).abs().max() > 1e-3


@pytest.mark.parametrize("model_type", PADDED)
def test_an_architecture_that_a_pack_does_not_fit_is_left_as_it_was(model_type: str) -> None:
    model = tiny(model_type)
    asked = model.config._attn_implementation
    assert not enable_packing(model)
    assert model.config._attn_implementation == asked
    assert not model._forward_pre_hooks


def test_another_pooling_than_the_first_token_is_found_out() -> None:
    assert not enable_packing(tiny("modernbert", classifier_pooling="mean"))


def test_positions_counted_from_the_wrong_start_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock, "_position_start", lambda _: 0)
    assert not enable_packing(tiny("roberta"))
    assert enable_packing(tiny("bert"))


def test_attention_across_texts_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock, "NAME", "sdpa")  # takes a pack for one long text
    assert not enable_packing(tiny("bert"))


def test_the_trial_leaves_weights_dtype_and_mode_alone() -> None:
    model = tiny("bert").to(torch.bfloat16).train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert enable_packing(model)
    assert model.training
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_a_padded_batch_passes_through_the_hooks() -> None:
    model = tiny("roberta")
    ids = torch.randint(3, 200, (2, 9))
    plain = model(input_ids=ids).logits
    assert enable_packing(model)
    score(model, texts_of(4, 6), packed=True)
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(model(input_ids=ids).logits, plain)


@pytest.mark.parametrize("window", [1, 3, 8, 40])
def test_a_window_hides_the_keys_beyond_it(window: int) -> None:
    lengths = (4, 9, 9, 30)
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    query, key, value = torch.randn(3, 1, 2, sum(lengths), 8).unbind(0)
    output, _ = packed_attention_forward(
        nn.Identity(), query, key, value, None, cu_seq_lens_q=bounds, max_length_q=30, sliding_window=window
    )
    text = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(sum(lengths))
    seen = (text.unsqueeze(1) == text) & ((place.unsqueeze(1) - place).abs() < window)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, seen).transpose(1, 2)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
