"""The CPU's kernel for packed texts, held against attention in float64, text by text."""

import logging
import re
import shutil
import subprocess
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
from torch._inductor.codecache import CppCodeCache
from torch.nn import functional as F

from models.attention import packed
from models.cpu import attention, library

CAPABILITY = torch.backends.cpu.get_cpu_capability()
pytestmark = pytest.mark.skipif(
    CAPABILITY not in library.CAPABILITIES or shutil.which("g++") is None, reason="needs AVX2 and a C++ compiler"
)
TOLERANCE = 2e-5  # for states of up to 8
# Lengths of the texts, and tokens that belong to none.
PACKS = [
    ([5, 3, 70, 1, 22, 130, 64, 64, 9], 0),
    ([1, 2, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49], 40),
    ([0, 20, 0, 0, 20, 0], 10),
    ([512, 200], 0),
    ([1], 0),
]


def states(tokens: int, width: int) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values of 3 heads as a fused projection leaves them: apart in memory, with scores of some size."""
    torch.manual_seed(0)
    return (2 * torch.randn(tokens, 3, 3, width)).unbind(1)


def bounds_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


def exact_text(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    query, key, value = (states.double().transpose(0, 1) for states in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(0, 1)


@pytest.fixture
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize(("lengths", "tail"), PACKS, ids=lambda value: str(value)[:24])
@pytest.mark.parametrize("width", [16, 32, 48, 64, 128])
def test_texts_attend_to_themselves_alone(threads: None, lengths: list[int], tail: int, width: int) -> None:
    query, key, value = states(sum(lengths) + tail, width)
    bounds = bounds_of(lengths)
    cuts = [slice(begin, end) for begin, end in pairwise(bounds.tolist()) if end > begin]
    found = attention.attend(query, key, value, bounds, bounds, width**-0.5)
    exact = torch.cat([exact_text(query[cut], key[cut], value[cut]) for cut in cuts])
    by_torch = packed._by_equal_lengths(query, key, value, bounds, bounds, None, None, 0.0)
    error, torchs_error = ((each[: sum(lengths)].double() - exact).abs().max().item() for each in (found, by_torch))
    assert error < max(3 * torchs_error, 1e-6)  # as for half precision: three times the library's own
    assert not found[sum(lengths) :].any()
    # A text gets the same, to the bit, by itself; and its first token when it alone is asked for.
    alone = bounds_of([cuts[-1].stop - cuts[-1].start])
    apart = attention.attend(query[cuts[-1]], key[cuts[-1]], value[cuts[-1]], alone, alone, width**-0.5)
    assert torch.equal(apart, found[cuts[-1]])
    once = bounds_of([int(length > 0) for length in lengths])
    firsts = attention.attend(query[[cut.start for cut in cuts]], key, value, once, bounds, width**-0.5)
    torch.testing.assert_close(firsts, found[[cut.start for cut in cuts]], rtol=0, atol=TOLERANCE)


def test_extreme_scores_stay_finite() -> None:
    query, key, value = (100 * each for each in states(40, 32))
    found = attention.attend(query, key, value, bounds_of([40]), bounds_of([40]), 1.0)
    torch.testing.assert_close(found.double(), exact_text(query * 32**0.5, key, value), rtol=0, atol=1e-2)


@pytest.mark.parametrize("lengths", [[3, 9], [8, -2, 4]], ids=["past the end", "falling"])
def test_bounds_that_cut_no_texts_are_refused(lengths: list[int]) -> None:
    query, key, value = states(10, 32)
    with pytest.raises(ValueError, match="at most 10 queries and 10 keys"):
        attention.attend(query, key, value, bounds_of(lengths), bounds_of(lengths), 1.0)
    with pytest.raises(ValueError, match="cuts 1 texts and cu_seq_lens_k 2"):
        attention.attend(query, key, value, bounds_of([10]), bounds_of([5, 5]), 1.0)


@pytest.mark.parametrize(("longest", "serves"), [(512, True), (513, False)])
def test_a_long_text_is_left_to_torch(longest: int, serves: bool) -> None:
    query, key, value = states(longest + 5, 16)
    bounds = bounds_of([5, longest])
    found = attention.attend(query, key, value, bounds, bounds, 0.25)
    assert (found is not None) == serves
    with torch.no_grad():
        served = attend_packed(query, key, value, bounds)
    exact = torch.cat([exact_text(*(each[cut] for each in (query, key, value))) for cut in (slice(5), slice(5, None))])
    torch.testing.assert_close(served.double(), exact, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("longest", [64, 513])
def test_bfloat16_is_as_exact_as_torchs(longest: int) -> None:
    lengths = [5, 23, longest]
    query, key, value = (each.bfloat16() for each in states(sum(lengths), 32))
    bounds = bounds_of(lengths)
    with torch.no_grad():
        found = attend_packed(query, key, value, bounds)
    assert found.dtype == torch.bfloat16
    cuts = [slice(begin, end) for begin, end in pairwise(bounds.tolist())]
    exact = torch.cat([exact_text(query[cut], key[cut], value[cut]) for cut in cuts])
    by_torch = packed._by_equal_lengths(query, key, value, bounds, bounds, None, None, 0.0)
    error, torchs_error = ((each.double() - exact).abs().max().item() for each in (found, by_torch))
    assert error <= torchs_error


def attend_packed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    states = (each.transpose(0, 1).unsqueeze(0) for each in (query, key, value))
    return packed.packed_attention_forward(torch.nn.Module(), *states, None, cu_seq_lens_q=bounds)[0][0]


def test_without_a_compiler_torch_serves_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> None:
        raise RuntimeError("no compiler\nand much more")

    monkeypatch.setattr(library, "built", missing)
    library.can_be_had.cache_clear()
    query, key, value = states(30, 32)
    bounds = bounds_of([10, 20])
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        found = [attend_packed(query, key, value, bounds) for _ in range(2)]
    library.can_be_had.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "short texts and LSTMs are slower, by torch's operators: no kernel for this CPU can be built: no compiler"
    ]
    torch.testing.assert_close(found[0][:10].double(), exact_text(query[:10], key[:10], value[:10]), rtol=0, atol=TOLERANCE)


def test_a_library_built_before_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the image's, by the command of the Dockerfile; the compiler is not asked."""
    source = tmp_path / "kernels.cpp"
    shutil.copy(library.SOURCE, source)
    (command,) = re.findall(rf"g\+\+ .* -o kernels\.{CAPABILITY.lower()}\.so kernels\.cpp", Path("Dockerfile").read_text())
    subprocess.run(command.split(), cwd=tmp_path, check=True)
    monkeypatch.setattr(library, "SOURCE", source)
    monkeypatch.setattr(CppCodeCache, "load", None)
    library.built.cache_clear()
    query, key, value = states(30, 32)
    here = attention.attend(query, key, value, bounds_of([30]), bounds_of([30]), 1.0)
    monkeypatch.undo()
    library.built.cache_clear()
    torch.testing.assert_close(
        attention.attend(query, key, value, bounds_of([30]), bounds_of([30]), 1.0), here, rtol=0, atol=TOLERANCE
    )
