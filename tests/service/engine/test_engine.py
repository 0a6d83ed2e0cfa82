"""The engine on real tiny checkpoints: how a text is batched must not change its logits."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import RobertaConfig, RobertaForSequenceClassification

from models.custom_bert import CustomBertConfig, CustomBertForSequenceClassification
from models.int8.__main__ import main as prepare_int8
from service.engine.engine import Engine, filled_up, similar_lengths
from service.engine.packs import TextIds, pad_rows
from service.served.catalog import ServedModel, load_catalog
from service.settings import Settings
from tokenizers_store.training import train_tokenizer

# A batch sums float32 numbers in another order than a text alone. The logits are of order 1.
TOLERANCE = 1e-5
LENGTHS = (7, 3, 40, 3, 12, 1, 25, 8, 7)
NAMES = ("tiny-bert", "tiny-lstm", "keyword")
BuildEngine = Callable[..., Engine]


def text_of(length: int, *, seed: int = 0, typed: bool = False) -> TextIds:
    ids = np.random.default_rng(100 * length + seed).integers(5, 200, length).astype(np.int32)
    types = (np.arange(length) >= length // 2).astype(np.int32) if typed else None
    return TextIds(ids, types)


CLS = 2  # its id in the tokenizers trained here
TEXTS = [text_of(length, seed=place) for place, length in enumerate(LENGTHS)]


@pytest.fixture
def build(settings_of: Callable[..., Settings], catalog: Mapping[str, ServedModel]) -> BuildEngine:
    def make(name: str, **fields: object) -> Engine:
        return Engine(catalog[name], device="cpu", settings=settings_of(**fields))

    return make


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("attention", ["auto", "sdpa", "eager"])
def test_a_text_scores_the_same_alone_and_in_a_batch(build: BuildEngine, name: str, attention: str) -> None:
    engine = build(name, attn_implementation=attention)
    alone = np.concatenate([engine.logits([text]) for text in TEXTS])
    np.testing.assert_allclose(engine.logits(TEXTS), alone, atol=TOLERANCE, rtol=0)
    assert np.abs(alone - alone[0]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-lstm"])
def test_packed_equals_padded(build: BuildEngine, name: str) -> None:
    packed, padded = build(name), build(name, attn_implementation="sdpa")
    assert (packed.packed, padded.packed) == (True, False)
    np.testing.assert_allclose(packed.logits(TEXTS), padded.logits(TEXTS), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_rows_follow_the_order_given(build: BuildEngine, name: str) -> None:
    engine = build(name)
    np.testing.assert_allclose(engine.logits(TEXTS[::-1]), engine.logits(TEXTS)[::-1], atol=TOLERANCE, rtol=0)


def test_a_class_without_supports_packed_is_padded(build: BuildEngine) -> None:
    assert build("keyword").details["batching"] == "padded"
    assert build("tiny-bert").details["batching"] == "packed"


@pytest.fixture(scope="module")
def stock_folder(tmp_path_factory: pytest.TempPathFactory, training_texts: tuple[str, ...]) -> Path:
    """A checkpoint of transformers' own RoBERTa: its positions begin at 2, and it has one token type."""
    folder = tmp_path_factory.mktemp("stock") / "tiny-roberta"
    tokenizer = train_tokenizer(training_texts, kind="bpe", vocab_size=500, max_length=64, show_progress=False)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        pad_token_id=1, max_position_embeddings=66, type_vocab_size=1, initializer_range=0.2, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    RobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("attention", ["auto", "sdpa"])
def test_an_encoder_of_transformers_own_is_packed(stock_folder: Path, attention: str) -> None:
    settings = Settings(models=(f"stock={stock_folder}",), device="cpu", attn_implementation=attention)
    (served,) = load_catalog(settings)
    assert served.max_length == 64  # of 66 positions RoBERTa uses 64
    engine = Engine(served, device="cpu", settings=settings)
    assert engine.details["batching"] == ("packed" if attention == "auto" else "padded")
    texts = [*TEXTS, text_of(served.max_length), text_of(9, typed=False)]
    model = RobertaForSequenceClassification.from_pretrained(stock_folder).eval()
    with torch.inference_mode():
        expected = torch.cat([model(input_ids=torch.from_numpy(text.ids).long().unsqueeze(0)).logits for text in texts])
    np.testing.assert_allclose(engine.logits(texts), expected.numpy(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("pattern", ["window", "strided", "random", "bigbird"])
def test_a_sparse_checkpoint_of_8192_tokens_is_packed(tmp_path: Path, training_texts: tuple[str, ...], pattern: str) -> None:
    tokenizer = train_tokenizer(training_texts, kind="bpe", vocab_size=500, max_length=8192, show_progress=False)
    config = CustomBertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=8192, initializer_range=0.2, num_labels=3, attention_pattern=pattern, attention_window=6,
    )  # fmt: skip
    torch.manual_seed(0)
    CustomBertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = Settings(models=(f"sparse={tmp_path}",), device="cpu")
    (served,) = load_catalog(settings)
    engine = Engine(served, device="cpu", settings=settings)
    assert (served.max_length, engine.details["batching"]) == (8192, "packed")
    engine.warm_up()
    texts = [*TEXTS, text_of(200), text_of(8192), text_of(64)]
    alone = np.concatenate([engine.logits([text]) for text in texts])
    np.testing.assert_allclose(engine.logits(texts), alone, atol=TOLERANCE, rtol=0)
    padded = Engine(served, device="cpu", settings=settings.model_copy(update={"attn_implementation": "sdpa"}))
    np.testing.assert_allclose(padded.logits(texts[:-2]), alone[:-2], atol=TOLERANCE, rtol=0)
    assert np.abs(alone - alone[0]).max() > 100 * TOLERANCE


def test_a_model_without_token_types_takes_pairs(build: BuildEngine) -> None:
    engine = build("keyword")
    assert not engine.takes.types
    np.testing.assert_array_equal(engine.logits([text_of(9, typed=True)]), engine.logits([text_of(9)]))


@pytest.mark.parametrize("attention", ["auto", "sdpa"])
def test_token_types_of_pairs_reach_the_model_beside_texts_without_a_partner(build: BuildEngine, attention: str) -> None:
    engine = build("tiny-bert", attn_implementation=attention)
    texts = [text_of(9, typed=True), text_of(9), text_of(5, typed=True)]
    alone = np.concatenate([engine.logits([text]) for text in texts])
    np.testing.assert_allclose(engine.logits(texts), alone, atol=TOLERANCE, rtol=0)
    assert np.abs(alone[0] - alone[1]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_close_to_float32(build: BuildEngine, name: str) -> None:
    scores = [torch.from_numpy(build(name, dtype=dtype).logits(TEXTS)).softmax(-1) for dtype in ("bfloat16", "float32")]
    torch.testing.assert_close(*scores, atol=0.1, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_warm_up_runs_a_real_forward(build: BuildEngine, name: str) -> None:
    build(name).warm_up()


def test_warm_up_refuses_a_model_whose_scores_are_not_numbers(build: BuildEngine) -> None:
    engine = build("tiny-bert")
    engine.model.classifier.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not a number"):
        engine.warm_up()


def test_a_failing_text_raises_what_the_model_raises(build: BuildEngine) -> None:
    with pytest.raises(IndexError):
        build("tiny-bert").logits([TextIds(np.array([10**6], dtype=np.int32))])


@pytest.mark.parametrize(("attention", "padding"), [("auto", 0), ("sdpa", 1)])
def test_padding_counts_the_tokens_that_no_text_holds(build: BuildEngine, attention: str, padding: int) -> None:
    texts = [text_of(length) for length in (20, 8, 9, 50)]
    engine = build("tiny-bert", attn_implementation=attention)
    engine.fills_up = False
    assert engine.padding(texts) == padding


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-lstm"])
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], TEXTS[1:2], TEXTS[5:6], [text_of(9, typed=True), text_of(8)]], ids=len)
def test_a_pack_that_is_filled_up_scores_the_same(build: BuildEngine, name: str, texts: list[TextIds]) -> None:
    engine = build(name)
    engine.fills_up = False
    plain = engine.logits(texts)
    assert engine.padding(texts) == 0
    engine.fills_up = True
    assert (engine.padding(texts) + sum(len(text.ids) for text in texts)) % 16 == 0
    np.testing.assert_allclose(engine.logits(texts), plain, atol=TOLERANCE, rtol=0)


def test_packs_come_in_few_sizes_that_are_little_larger() -> None:
    sizes = [filled_up(tokens) for tokens in range(1, 2049)]
    assert len(set(sizes)) == 40
    assert all(tokens <= size < tokens + max(16, tokens / 8) for tokens, size in enumerate(sizes, start=1))


@pytest.mark.parametrize("lengths", [(1,), (1, 1, 1), (1, 2, 3, 4), (4, 5, 6, 100), tuple(range(1, 60))])
def test_groups_hold_every_text_and_little_padding(lengths: tuple[int, ...]) -> None:
    groups = similar_lengths([text_of(length) for length in lengths])
    assert [len(text.ids) for group in groups for text in group] == list(lengths)
    assert all(len(group[-1].ids) <= 1.25 * len(group[0].ids) + 1 for group in groups)


def test_rows_are_padded_on_the_right() -> None:
    rows = [np.array([1], np.int32), np.array([1, 2, 3], np.int32)]
    assert pad_rows(rows, value=9).tolist() == [[1, 9, 9], [1, 2, 3]]


@pytest.mark.parametrize("attention", ["auto", "sdpa"])
def test_int8_is_near_float32_and_a_text_scores_the_same_in_any_batch(wide_bert: ServedModel, attention: str) -> None:
    integer, exact = (
        Engine(wide_bert, device="cpu", settings=Settings(dtype=dtype, attn_implementation=attention))
        for dtype in ("int8", "float32")
    )
    assert (integer.details["dtype"], exact.details["dtype"]) == ("int8", "float32")
    texts = [TextIds(np.concatenate([[CLS], text.ids]).astype(np.int32)) for text in TEXTS]  # the last layer computes CLS only
    alone = np.concatenate([integer.logits([text]) for text in texts])
    np.testing.assert_allclose(integer.logits(texts), alone, atol=TOLERANCE, rtol=0)
    # Random ids hold tokens that no observed text had. Their values lie outside the observed ranges and are clipped.
    assert 0 < np.abs(alone - exact.logits(texts)).mean() < 0.1


def test_int8_of_a_model_without_wide_layers_is_float32(
    build: BuildEngine, catalog: Mapping[str, ServedModel], training_texts: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(training_texts), encoding="utf-8")
    folder = catalog["tiny-lstm"].path
    assert prepare_int8([str(folder), "--texts", str(tmp_path / "texts.txt")]) == 0
    try:
        assert build("tiny-lstm", dtype="int8").details["dtype"] == "float32"
    finally:
        (folder / "int8_ranges.safetensors").unlink()
