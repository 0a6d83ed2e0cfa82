"""How a batch is put into a graph's buffers. Without CUDA a replay is the forward itself, on these buffers."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from service.engine.engine import Engine
from service.engine.graphs import Graph, GraphedForward
from service.engine.packs import TextIds, pack

TOLERANCE = 1e-5
MAX_TOKENS, MAX_LENGTH = 200, 48


@pytest.fixture
def engine(settings_of: Callable[..., object], catalog: dict[str, object]) -> Engine:
    return Engine(catalog["tiny-bert"], device="cpu", settings=settings_of())  # type: ignore[arg-type]


@pytest.fixture
def graphs(engine: Engine) -> Iterator[GraphedForward]:
    with torch.inference_mode():
        yield GraphedForward(
            engine.model, max_tokens=MAX_TOKENS, max_length=MAX_LENGTH, takes_types=True, device=torch.device("cpu")
        )


def texts_of(lengths: Sequence[int], *, typed: bool = False) -> list[TextIds]:
    generator = np.random.default_rng(sum(lengths))
    return [
        TextIds(
            generator.integers(5, 60, length).astype(np.int32),
            (np.arange(length) >= length // 2).astype(np.int32) if typed else None,
        )
        for length in lengths
    ]


def poison(graph: Graph) -> None:
    """Fills the host and device buffers with valid but wrong numbers, as a former batch would."""
    for fields, bounds in graph._arrays:
        fields[0], fields[1], fields[2] = 7, 3, 1
        bounds[:] = 2


def test_sizes_end_at_the_budget(graphs: GraphedForward) -> None:
    assert [graph.tokens for graph in graphs.graphs] == [32, 48, 64, 96, 128, 192, 200]
    assert [graph.texts for graph in graphs.graphs] == [4, 6, 8, 12, 16, 24, 25]


def test_every_number_of_texts_up_to_the_limit_scores_as_the_forward(engine: Engine, graphs: GraphedForward) -> None:
    for count in range(1, 26):
        batch = pack(texts_of([3 + (place * 5) % 6 for place in range(count)]), with_types=True)
        for graph in graphs.graphs:
            poison(graph)
        found = graphs(batch)
        assert found is not None
        torch.testing.assert_close(found, engine._forward(batch), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("lengths", [[1], [32], [31, 1], [48, 48, 48, 48, 8], [1] * 25], ids=str)
def test_full_and_nearly_empty_buffers(engine: Engine, graphs: GraphedForward, lengths: list[int]) -> None:
    for typed in (True, False, True):
        batch = pack(texts_of(lengths, typed=typed), with_types=True)
        found = graphs(batch)
        assert found is not None
        torch.testing.assert_close(found, engine._forward(batch), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("lengths", [[40] * 6, [1] * 26], ids=["tokens", "texts"])
def test_a_batch_that_fits_no_graph_is_left_to_the_forward(graphs: GraphedForward, lengths: list[int]) -> None:
    assert graphs(pack(texts_of(lengths), with_types=True)) is None


def test_an_engine_gives_a_graphs_rows_in_the_order_asked(engine: Engine, graphs: GraphedForward) -> None:
    texts = texts_of([9, 3, 17, 5])
    plain = engine.logits(texts)
    engine.graphs = graphs
    np.testing.assert_allclose(engine.logits(texts), plain, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(engine.logits(texts_of([45] * 9)), engine.logits(texts_of([45] * 9)), atol=TOLERANCE, rtol=0)


def test_a_replay_that_scores_otherwise_is_found_out(engine: Engine, graphs: GraphedForward) -> None:
    batches = [pack(texts_of([6, 9]), with_types=True)]
    graphs.check(engine._forward, batches)
    graphs.graphs[0]._replay = lambda: None
    with pytest.raises(ValueError, match="away from the forward's"):
        graphs.check(engine._forward, [pack(texts_of([8, 8]), with_types=True)])


@pytest.mark.parametrize(
    ("lengths", "padding"),
    [((30,), 2), ((32,), 0), ((3, 3, 3, 3, 3), 48 - 15), ((40,) * 5, 0), ((40,) * 6, 0)],
    ids=["a small graph", "a full one", "one for many texts", "the largest", "no graph holds it"],
)
def test_what_a_graph_is_filled_up_with_counts_as_padding(
    engine: Engine, graphs: GraphedForward, lengths: tuple[int, ...], padding: int
) -> None:
    engine.graphs = graphs
    assert engine.launch(texts_of(lengths)).padding == engine.padding(texts_of(lengths)) == padding
