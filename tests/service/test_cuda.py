"""On a GPU, at every batch size: packed texts score as they do alone, replayed graphs as the forward. Skipped without a GPU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from models import register_architectures
from service.engine.engine import Engine
from service.engine.packs import TextIds
from service.served.catalog import load_catalog
from service.settings import CHECKPOINTS, Settings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DTYPES = ("bfloat16", "float16")


def engine(name: str, device: str, **settings: object) -> Engine:
    register_architectures()
    chosen = Settings.model_validate({"models": (f"{name}={Path(CHECKPOINTS) / name}",), **settings})
    (served,) = load_catalog(chosen)
    return Engine(served, device=device, settings=chosen)


def texts(count: int, *, longest: int = 60, seed: int = 0) -> list[TextIds]:
    generator = np.random.default_rng(seed)
    return [TextIds(generator.integers(5, 5000, length).astype(np.int32)) for length in generator.integers(3, longest, count)]


def alone(found: Engine, batch: Sequence[TextIds]) -> np.ndarray:
    return np.concatenate([found.logits([text]) for text in batch])


@pytest.fixture(scope="module")
def exact():
    """The scores of the texts in float32 on the CPU, one text at a time."""
    return alone(engine("sentiment-bert", "cpu", dtype="float32"), texts(64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("graphs", [True, False])
def test_packed_scores_are_near_the_exact_ones(exact, dtype, graphs):
    """The packed scores may be off by 3 times what torch's own padded attention in that type is off by."""
    ours = engine("sentiment-bert", "cuda:0", dtype=dtype, cuda_graphs=graphs).logits(texts(64))
    library = alone(engine("sentiment-bert", "cuda:0", dtype=dtype, attn_implementation="sdpa"), texts(64))
    assert np.abs(ours - exact).max() <= 3 * np.abs(library - exact).max()


def test_replays_are_the_forward_at_every_batch_size():
    """Other texts are scored in between, so that a number left in a buffer would show."""
    replayed = engine("sentiment-bert", "cuda:0", dtype="bfloat16")
    eager = engine("sentiment-bert", "cuda:0", dtype="bfloat16", cuda_graphs=False)
    assert replayed.graphs is not None, replayed.details
    for size in [*range(1, 40), 64, 100, 255, 256, 700]:
        replayed.logits(texts(min(700, 2 * size), seed=1000 + size))
        batch = texts(size, seed=size)
        np.testing.assert_allclose(replayed.logits(batch), eager.logits(batch), atol=0.05)


def test_a_batch_launched_before_the_last_is_read_changes_nothing():
    found = engine("sentiment-bert", "cuda:0", dtype="bfloat16")
    first, second = texts(50, seed=1), texts(50, seed=2)
    expected = found.logits(first), found.logits(second)
    for _ in range(50):
        launched = found.launch(first), found.launch(second)
        for run, right in zip(launched, expected, strict=True):
            np.testing.assert_allclose(run.wait(), right, atol=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_lstm_scores_as_on_the_cpu(dtype):
    batch = texts(40)
    exact_rows = alone(engine("sentiment-lstm", "cpu", dtype="float32"), batch)
    tolerance = 1e-3 if dtype == "float32" else 0.15  # cuDNN uses TF32; bfloat16 rounds to 8 bits at each step
    np.testing.assert_allclose(engine("sentiment-lstm", "cuda:0", dtype=dtype).logits(batch), exact_rows, atol=tolerance)


def test_long_texts_fit():
    found = engine("sentiment-bert", "cuda:0", dtype="bfloat16")
    assert np.isfinite(found.logits(texts(64, longest=found_longest(found)))).all()


def found_longest(found: Engine) -> int:
    return int(found.model.config.max_position_embeddings)
