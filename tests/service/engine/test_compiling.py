"""The compiled forward scores as the plain one does, and a text in a batch as it does alone. Needs a C++ compiler."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from models.int8.linear import has_fbgemm
from service.engine.compiling import CompiledForward
from service.engine.engine import Engine
from service.engine.packs import Pack, TextIds
from service.served.catalog import ServedModel, load_catalog
from service.settings import Settings

TOLERANCE = 1e-5
INT8_TOLERANCE = 2e-3
LENGTHS = (1, 2, 3, 7, 7, 12, 30)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
# torch warns of its own deprecated calls while it compiles
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def tiny(checkpoints: Mapping[str, Path]) -> Iterator[Mapping[bool, Engine]]:
    """Engines of one thread, since a graph is compiled for each number of threads."""
    settings = Settings(models=(f"tiny={checkpoints['tiny-bert']}",), device="cpu", workers_per_device=1, threads=1)
    (served,) = load_catalog(settings)
    threads = torch.get_num_threads()
    yield {
        compiled: Engine(served, device="cpu", settings=settings.model_copy(update={"compile": compiled}))
        for compiled in (False, True)
    }
    torch.set_num_threads(threads)


def texts_of(lengths: tuple[int, ...], *, typed: bool) -> list[TextIds]:
    generator = np.random.default_rng(sum(lengths))
    return [
        TextIds(
            generator.integers(5, 60, length).astype(np.int32),
            (np.arange(length) >= length // 2).astype(np.int32) if typed else None,
        )
        for length in lengths
    ]


@needs_compiler
def test_the_engine_says_that_it_is_compiled(tiny: Mapping[bool, Engine]) -> None:
    assert [tiny[compiled].details["compiled"] for compiled in (False, True)] == ["no", "yes"]


@needs_compiler
@pytest.mark.parametrize("typed", [False, True], ids=["texts", "pairs"])
@pytest.mark.parametrize("lengths", [(1,), (7,), (2, 3), LENGTHS, LENGTHS * 5], ids=str)
def test_a_compiled_batch_scores_as_the_plain_forward(tiny: Mapping[bool, Engine], lengths: tuple[int, ...], typed: bool) -> None:
    texts = texts_of(lengths, typed=typed)
    assert tiny[True].logits(texts) == pytest.approx(tiny[False].logits(texts), abs=TOLERANCE)


@needs_compiler
def test_a_text_scores_in_a_compiled_batch_as_it_does_alone(tiny: Mapping[bool, Engine]) -> None:
    texts = texts_of(LENGTHS, typed=False)
    alone = np.concatenate([tiny[True].logits([text]) for text in texts])
    assert tiny[True].logits(texts) == pytest.approx(alone, abs=TOLERANCE)


@needs_compiler
def test_a_live_forward_does_not_compile_while_another_model_does(tiny: Mapping[bool, Engine]) -> None:
    live = tiny[True].compiled
    assert live is not None
    pack = tiny[True]._pack(texts_of(LENGTHS, typed=True))
    threads = torch.get_num_threads()
    live_graphs: list[int] = []

    def forward(model: nn.Module, pack: Pack) -> torch.Tensor:
        """The other model's forward. Meanwhile a live one comes that fits no graph, since threads are counted in."""
        if not live_graphs:
            torch.set_num_threads(threads + 1)
            before = counters["stats"]["unique_graphs"]
            live(pack)
            live_graphs.append(counters["stats"]["unique_graphs"] - before)
            torch.set_num_threads(threads)
        return tiny[False]._plain_forward(model, pack)

    with torch.inference_mode():
        CompiledForward(tiny[False].model, forward, takes_types=True).check([pack], threads=[threads])
    assert live_graphs == [0]


@needs_compiler
def test_a_checked_forward_still_uses_its_graphs(tiny: Mapping[bool, Engine]) -> None:
    """Though it compiles no more: the profile of a batch shows a graph of the compiler."""
    with torch.profiler.profile() as profile:
        tiny[True].logits(texts_of(LENGTHS, typed=False))
    assert any("CompiledFxGraph" in event.key for event in profile.key_averages())


def test_a_model_that_can_t_be_compiled_is_served_as_it_is(
    checkpoints: Mapping[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(models=(f"tiny={checkpoints['tiny-lstm']}",), device="cpu", compile=True)
    (served,) = load_catalog(settings)
    with caplog.at_level(logging.WARNING, "valence.worker"):
        engine = Engine(served, device="cpu", settings=settings)
    assert engine.details["compiled"] == "no"
    assert "not compiled: " in caplog.text
    assert np.isfinite(engine.logits(texts_of((5,), typed=False))).all()


@needs_compiler
@pytest.mark.skipif(not has_fbgemm(), reason="this torch has no FBGEMM")
def test_an_int8_model_compiles_into_the_same_integers(wide_bert: ServedModel) -> None:
    """The model has layers with residuals and norms between them, wide enough for the compiler's own kernels."""
    settings = Settings(device="cpu", workers_per_device=1, threads=1, dtype="int8", compile=True)
    threads = torch.get_num_threads()
    try:
        compiled = Engine(wide_bert, device="cpu", settings=settings)
        plain = Engine(wide_bert, device="cpu", settings=settings.model_copy(update={"compile": False}))
        assert (compiled.details["dtype"], compiled.details["compiled"]) == ("int8", "yes")
        texts = texts_of(LENGTHS, typed=False)
        alone = np.concatenate([compiled.logits([text]) for text in texts])
        assert compiled.logits(texts) == pytest.approx(alone, abs=TOLERANCE)
        # some integers differ by one, since the compiler joins sums and products
        assert np.abs(compiled.logits(texts) - plain.logits(texts)).mean() < INT8_TOLERANCE
    finally:
        torch.set_num_threads(threads)
