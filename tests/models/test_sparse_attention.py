"""Sparse attention against the definition written out as an n x n mask, and what a configuration may ask for."""

import json
from itertools import accumulate

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AutoConfig, AutoModelForSequenceClassification

from models import register_architectures
from models.attention.blocks import Cuts, blocks_of
from models.attention.flex import TILE, block_mask, block_sparse_attention
from models.attention.patterns import BLOCK, Pattern
from models.attention.sparse import sparse_attention_forward
from models.custom_bert import CustomBertConfig

register_architectures()

PATTERNS = {
    "window": {"window": 5},
    "wide-window": {"window": 100},
    "strided": {"stride": 7},
    "random": {"random_blocks": 2, "seed": 3},
    "bigbird": {"window": 9, "random_blocks": 1, "global_tokens": 2},
}
# Around windows and blocks: 1, w - 1, w, w + 1, 2w + 3, one block more or less, several.
LENGTHS = (1, 4, 5, 6, 13, BLOCK - 1, BLOCK, BLOCK + 1, 99, 100, 101, 2 * BLOCK, 203, 300)
# Products of order 1 in float32, added up in another order.
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}

every_pattern = pytest.mark.parametrize("fields", PATTERNS.values(), ids=PATTERNS)


def bounds_of(lengths: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


def states(tokens: int, *, heads: int = 2, width: int = 8) -> tuple[torch.Tensor, ...]:
    return torch.randn(3, 1, heads, tokens, width, generator=torch.Generator().manual_seed(tokens)).unbind(0)


def masks(fields: dict[str, int], lengths: tuple[int, ...]) -> torch.Tensor:
    return torch.block_diag(*[Pattern(**fields).mask(length).float() for length in lengths]).bool()


def sparse(fields: dict[str, int], *inputs: torch.Tensor, **kwargs: object) -> torch.Tensor:
    return sparse_attention_forward(nn.Identity(), *inputs, None, pattern=fields, **kwargs)[0]


class TestDefinition:
    """Each pattern beside a loop that says in plain words what is seen."""

    def test_window(self) -> None:
        expected = [[abs(query - key) < 5 for key in range(40)] for query in range(40)]
        assert Pattern(window=5).mask(40).tolist() == expected

    def test_strided(self) -> None:
        expected = [[key % 7 == 0 or key == query for key in range(40)] for query in range(40)]
        assert Pattern(stride=7).mask(40).tolist() == expected

    def test_global_tokens_see_all_and_are_seen(self) -> None:
        expected = [[query == key or query < 3 or key < 3 for key in range(40)] for query in range(40)]
        assert Pattern(global_tokens=3).mask(40).tolist() == expected

    def test_random_blocks_are_drawn_for_blocks_of_queries(self) -> None:
        mask = Pattern(random_blocks=2).mask(20 * BLOCK)
        mask[torch.arange(len(mask)), torch.arange(len(mask))] = False
        blocks = mask.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).sum((1, 3))
        assert set(blocks.flatten().tolist()) <= {0, BLOCK * BLOCK, BLOCK * BLOCK - BLOCK}
        assert {1, 2} >= set((blocks > 0).sum(1).tolist())
        assert (blocks > 0).any(0).sum() > 10  # 20 times 2 draws of 20 blocks leave few out

    def test_another_seed_and_another_length_draw_others(self) -> None:
        drawn = Pattern(random_blocks=2).mask(640)
        assert torch.equal(drawn, Pattern(random_blocks=2).mask(640))
        assert not torch.equal(drawn, Pattern(random_blocks=2, seed=1).mask(640))
        assert not torch.equal(drawn[:320, :320], Pattern(random_blocks=2).mask(320))

    @every_pattern
    @pytest.mark.parametrize("length", LENGTHS)
    def test_every_token_sees_itself_and_candidates_hold_all_that_is_seen(self, fields: dict[str, int], length: int) -> None:
        mask = Pattern(**fields).mask(length)
        assert mask.diagonal().all()
        found = torch.zeros_like(mask)
        cuts = Cuts(bounds_of((length,)), bounds_of((length,)))
        for blocks in blocks_of(Pattern(**fields), cuts):
            pairs = blocks.mask_MBC(Pattern(**fields), cuts) & blocks.asked_MB.unsqueeze(2)
            block, query, key = pairs.nonzero().unbind(1)
            assert not found[blocks.place_MB[block, query], blocks.key_MC[block, key]].any()  # each pair once
            found[blocks.place_MB[block, query], blocks.key_MC[block, key]] = True
        assert torch.equal(found, mask)


class TestAgainstTheMaskedReference:
    @every_pattern
    @pytest.mark.parametrize("lengths", [*[(length,) for length in LENGTHS], LENGTHS, LENGTHS[::-1]], ids=str)
    def test_a_pack(self, fields: dict[str, int], lengths: tuple[int, ...]) -> None:
        query, key, value = states(sum(lengths))
        expected = F.scaled_dot_product_attention(query, key, value, masks(fields, lengths)).transpose(1, 2)
        bounds = bounds_of(lengths)
        torch.testing.assert_close(
            sparse(fields, query, key, value, cu_seq_lens_q=bounds, cu_seq_lens_k=bounds), expected, **TOLERANCE
        )

    @every_pattern
    def test_gradients(self, fields: dict[str, int]) -> None:
        inputs = [state.requires_grad_() for state in states(sum(LENGTHS))]
        weight = torch.randn(1, sum(LENGTHS), 2, 8)
        bounds = bounds_of(LENGTHS)
        found = torch.autograd.grad((sparse(fields, *inputs, cu_seq_lens_q=bounds) * weight).sum(), inputs)
        reference = F.scaled_dot_product_attention(*inputs, masks(fields, LENGTHS)).transpose(1, 2)
        for left, right in zip(found, torch.autograd.grad((reference * weight).sum(), inputs), strict=True):
            torch.testing.assert_close(left, right, **TOLERANCE)

    @every_pattern
    def test_first_tokens_only(self, fields: dict[str, int]) -> None:
        query, key, value = states(sum(LENGTHS))
        bounds = bounds_of(LENGTHS)
        first = bounds[:-1].long()
        whole = F.scaled_dot_product_attention(query, key, value, masks(fields, LENGTHS)).transpose(1, 2)
        found = sparse(
            fields,
            query[:, :, first],
            key,
            value,
            cu_seq_lens_q=torch.arange(len(bounds), dtype=torch.int32),
            cu_seq_lens_k=bounds,
        )
        torch.testing.assert_close(found, whole[:, first], **TOLERANCE)

    @every_pattern
    @pytest.mark.parametrize("queries", [1, 150])
    def test_a_padded_batch_with_an_empty_row(self, fields: dict[str, int], queries: int) -> None:
        lengths = (150, 0, 1, 100, 65)
        query, key, value = torch.randn(3, len(lengths), 2, 150, 8).unbind(0)
        real = torch.arange(150) < torch.tensor(lengths).unsqueeze(1)
        key, value = (torch.where(real[:, None, :, None], state, 1e4) for state in (key, value))  # to be seen by nobody
        found = sparse(fields, query[:, :, :queries], key, value, padding_mask=real.long())
        assert found.shape == (len(lengths), queries, 2, 8)
        for row, length in enumerate(lengths):
            alone = [state[row : row + 1, :, :length] for state in (query, key, value)]
            expected = F.scaled_dot_product_attention(*alone, Pattern(**fields).mask(length)).transpose(1, 2)[:, :queries]
            torch.testing.assert_close(found[row : row + 1, : min(length, queries)], expected, **TOLERANCE)
            assert not found[row, length:].any()

    @every_pattern
    @pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
    def test_flex_attention(self, fields: dict[str, int]) -> None:
        """On the CPU it computes every pair and masks; the compiled kernel, which reads the tiles too, needs a GPU."""
        tokens = sum(LENGTHS) + 3  # the last of no text
        query, key, value = states(tokens)
        cuts = Cuts(bounds_of(LENGTHS), bounds_of(LENGTHS))
        flat = [state[0].transpose(0, 1) for state in (query, key, value)]
        found = block_sparse_attention(*flat, cuts, pattern=Pattern(**fields), scaling=None)[:-3]
        real = [state[:, :, :-3] for state in (query, key, value)]
        expected = F.scaled_dot_product_attention(*real, masks(fields, LENGTHS))[0].transpose(0, 1)
        torch.testing.assert_close(found, expected, **TOLERANCE)

    @every_pattern
    def test_tiles_of_flex_attention_hold_all_that_is_seen(self, fields: dict[str, int]) -> None:
        tokens = sum(LENGTHS)
        kept = block_mask(Pattern(**fields), Cuts(bounds_of(LENGTHS), bounds_of(LENGTHS)), tokens=tokens).to_dense()[0, 0].bool()
        seen = (
            F.pad(masks(fields, LENGTHS), (0, -tokens % TILE, 0, -tokens % TILE))
            .unflatten(0, (-1, TILE))
            .unflatten(2, (-1, TILE))
        )
        assert not (seen.any(3).any(1) & ~kept).any()


class TestCost:
    @pytest.mark.parametrize("name", ["window", "random", "bigbird"])
    def test_pairs_looked_at_grow_with_the_length(self, name: str) -> None:
        looked_at = [pairs(PATTERNS[name], length) for length in (4096, 8192)]
        assert looked_at[1] <= 2.1 * looked_at[0]
        assert looked_at[1] < 8192**2 / 15

    def test_pairs_of_a_stride_are_a_part_of_all(self) -> None:
        assert pairs({"stride": 64}, 8192) < 8192**2 / 40

    def test_tiles_of_flex_attention_are_few(self) -> None:
        bounds = bounds_of((8192,))
        mask = block_mask(Pattern(**PATTERNS["bigbird"]), Cuts(bounds, bounds), tokens=8192)
        assert mask.kv_num_blocks.sum() < 64 * 64 / 7


def pairs(fields: dict[str, int], length: int) -> int:
    """Of a query and a key, as many as a text's blocks hold."""
    cuts = Cuts(bounds_of((length,)), bounds_of((length,)))
    return sum(blocks.place_MB.numel() * blocks.key_MC.shape[1] for blocks in blocks_of(Pattern(**fields), cuts))


class TestConfiguration:
    def test_fields_of_each_layer(self) -> None:
        config = CustomBertConfig(num_hidden_layers=3, attention_pattern=["bigbird", "full", "bigbird"], attention_seed=5)
        first, second, third = (config.layer_pattern(layer) for layer in range(3))
        assert first == {"window": 128, "random_blocks": 2, "global_tokens": 1, "seed": 5}
        assert second is None
        assert third == first | {"seed": 7}

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"attention_pattern": "windw"}, "there is no attention_pattern 'windw'; did you mean 'window'\\?"),
            ({"attention_pattern": "zz"}, "no attention_pattern 'zz'; there are full, window, strided, random, bigbird"),
            ({"attention_pattern": ["window", "sparse!"], "num_hidden_layers": 2}, "no attention_pattern 'sparse!'"),
            ({"attention_pattern": ["window"]}, "names 1 layers, but num_hidden_layers is 6"),
            ({"attention_window": 0}, "attention_window 0 is less than 1"),
            ({"attention_seed": -1}, "attention_seed -1 is less than 0"),
        ],
    )
    def test_what_cannot_be_is_refused(self, fields: dict[str, object], message: str) -> None:
        with pytest.raises(StrictDataclassError, match=message):
            CustomBertConfig(**fields)

    def test_a_misspelt_field_is_refused(self) -> None:
        with pytest.raises(ValueError, match="did you mean 'attention_pattern'"):
            CustomBertConfig(attention_patern="window")

    def test_a_checkpoint_of_before_is_dense(self, tmp_path) -> None:
        fields = {"model_type": "valence_bert", "num_hidden_layers": 2}
        (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
        config = AutoConfig.from_pretrained(tmp_path)
        assert [config.layer_pattern(layer) for layer in range(2)] == [None, None]


SIZES = {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
         "max_position_embeddings": 400, "initializer_range": 0.2}  # fmt: skip
NARROW = {"attention_window": 4, "attention_stride": 5, "attention_random_blocks": 1}


class TestModel:
    @pytest.mark.parametrize("pattern", ["window", "strided", "random", "bigbird", ["full", "window"]], ids=str)
    def test_logits_are_those_of_masked_dense_attention(self, pattern, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(0)
        config = CustomBertConfig(attention_pattern=pattern, **SIZES, **NARROW)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        ids = torch.randint(5, 200, (1, 333))
        found = model(ids).logits
        monkeypatch.setitem(AttentionInterface._global_mapping, "sparse", dense)
        torch.testing.assert_close(found, model(ids).logits, **TOLERANCE)
        for layer in model.bert.encoder.layer:
            layer.attention.self.pattern = None
        assert (found - model(ids).logits).abs().max() > 0.01

    def test_no_mask_of_length_by_length_is_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = AutoModelForSequenceClassification.from_config(CustomBertConfig(attention_pattern="bigbird", **SIZES))
        monkeypatch.setattr(type(model.bert), "_make_mask", lambda *_, **__: pytest.fail("a mask"))
        model(torch.ones(2, 50, dtype=torch.int64), attention_mask=torch.ones(2, 50))

    def test_files_without_the_backend_say_what_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = AutoModelForSequenceClassification.from_config(CustomBertConfig(attention_pattern="window", **SIZES))
        monkeypatch.delitem(AttentionInterface._global_mapping, "sparse")
        with pytest.raises(ValueError, match="'window' needs the attention backend \"sparse\""):
            model(torch.ones(1, 9, dtype=torch.int64))

    def test_a_mask_of_pairs_is_refused(self) -> None:
        model = AutoModelForSequenceClassification.from_config(CustomBertConfig(attention_pattern="window", **SIZES))
        with pytest.raises(ValueError, match="not of 4 axes"):
            model(torch.ones(1, 9, dtype=torch.int64), attention_mask=torch.ones(1, 1, 9, 9))


def dense(module: nn.Module, query, key, value, attention_mask, pattern, **kwargs) -> tuple[torch.Tensor, None]:
    mask = Pattern(**pattern).mask(key.shape[2])[: query.shape[2]]
    return F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2), None
