"""The CPU's kernel for LSTMs, held against torch.nn.LSTM in float64."""

import shutil

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from models.cpu import library
from models.cpu.lstm import KernelLstm, read_texts, replace_lstms

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in library.CAPABILITIES or shutil.which("g++") is None,
    reason="needs AVX2 and a C++ compiler",
)
LENGTHS = (5, 1, 70, 3, 22, 9, 64, 64, 2, 2, 17, 40, 1)
# Of the library's own error in float32, which is of the order of 1e-6 here.
TIMES_TORCHS = 3
SHAPES = [
    {"num_layers": 1, "bidirectional": False},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "bidirectional": True, "bias": False},
    {"num_layers": 1, "bidirectional": True, "batch_first": True},
]


@pytest.fixture
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def lstm_of(**shape: object) -> nn.LSTM:
    """With states of some size, and inputs that drive gates into their ends."""
    torch.manual_seed(0)
    layer = nn.LSTM(40, 48, **shape).eval()
    for name, parameter in layer.named_parameters():
        parameter.data.normal_(std=1.5 if name.startswith("bias") else 0.3)
    return layer


def texts_of(lengths: tuple[int, ...] = LENGTHS) -> list[torch.Tensor]:
    return [torch.randn(length, 40, generator=torch.Generator().manual_seed(place)) for place, length in enumerate(lengths)]


def in_float64(layer: nn.LSTM) -> nn.LSTM:
    options = ("num_layers", "bias", "batch_first", "bidirectional")
    copy = nn.LSTM(layer.input_size, layer.hidden_size, **{name: getattr(layer, name) for name in options}).double()
    copy.load_state_dict(layer.state_dict())
    return copy


def worst(found: torch.Tensor, exact: torch.Tensor) -> float:
    assert found.shape == exact.shape
    return (found.double() - exact).abs().max().item()


def check(found: list[torch.Tensor], by_torch: list[torch.Tensor], exact: list[torch.Tensor]) -> None:
    """Output, last outputs and last cells."""
    for ours, torchs, true in zip(found, by_torch, exact, strict=True):
        assert worst(ours, true) <= max(TIMES_TORCHS * worst(torchs, true), 1e-6)


@pytest.mark.parametrize("threads", [1, 2, 5], indirect=True)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.inference_mode()
def test_a_pack_is_read_as_torch_reads_it(threads: None, shape: dict[str, object]) -> None:
    layer = lstm_of(**shape)
    pack = pack_sequence(texts_of(), enforce_sorted=False)
    output, lasts = KernelLstm(layer)(pack)
    by_torch, torchs_lasts = layer(pack)
    exact, exact_lasts = in_float64(layer)(PackedSequence(pack.data.double(), *pack[1:]))
    check([output.data, *lasts], [by_torch.data, *torchs_lasts], [exact.data, *exact_lasts])
    for found, wanted in zip(output[1:], exact[1:], strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.inference_mode()
def test_a_padded_batch_is_read_as_torch_reads_it(shape: dict[str, object]) -> None:
    layer = lstm_of(**shape)
    inputs = torch.randn(7, 13, 40)
    (output, lasts), (by_torch, torchs_lasts) = KernelLstm(layer)(inputs), layer(inputs)
    exact, exact_lasts = in_float64(layer)(inputs.double())
    check([output, *lasts], [by_torch, *torchs_lasts], [exact, *exact_lasts])


@pytest.mark.parametrize("threads", [1, 5], indirect=True)
def test_a_text_gets_the_same_whatever_it_comes_with(threads: None) -> None:
    """To the bit, given the same sums from its inputs."""
    weights = KernelLstm(lstm_of(bidirectional=True)).recurrent[0]
    lengths = torch.tensor(sorted(LENGTHS, reverse=True))
    batch_sizes = (lengths > torch.arange(int(lengths[0])).unsqueeze(1)).sum(1)
    gates = torch.randn(sum(LENGTHS), 8 * 48)
    starts = batch_sizes.cumsum(0) - batch_sizes
    output, cells = read_texts(gates, weights, batch_sizes)
    for text, length in enumerate(lengths.tolist()):
        rows = starts[:length] + text
        alone, alone_cells = read_texts(gates[rows], weights, torch.ones(length, dtype=torch.int64))
        assert torch.equal(alone, output[rows])
        assert torch.equal(alone_cells[:, 0], cells[:, text])


@torch.inference_mode()
def test_gates_that_overflow_an_exponential_end_at_their_limits() -> None:
    layer = lstm_of(num_layers=1)
    output, (_, cells) = KernelLstm(layer)(1e4 * torch.randn(3, 9, 40))
    assert output.isfinite().all()
    assert output.abs().max() <= 1
    assert cells.isfinite().all()


@torch.inference_mode()
def test_bfloat16_is_as_exact_as_torchs() -> None:
    layer = lstm_of(num_layers=2, bidirectional=True).bfloat16()
    pack = pack_sequence([text.bfloat16() for text in texts_of()], enforce_sorted=False)
    output, (hidden, cells) = KernelLstm(layer)(pack)
    assert output.data.dtype == hidden.dtype == cells.dtype == torch.bfloat16
    exact = in_float64(layer)(PackedSequence(pack.data.double(), *pack[1:]))[0].data
    assert worst(output.data, exact) <= worst(layer(pack)[0].data, exact)


def test_what_the_kernel_lacks_is_the_layers_own() -> None:
    layer = lstm_of(num_layers=1, batch_first=True)
    kernel = KernelLstm(layer)
    inputs = torch.randn(2, 5, 40, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(inputs)[0].square().sum(), inputs)
    (found,) = torch.autograd.grad(kernel(inputs)[0].square().sum(), inputs)
    assert torch.equal(found, expected)
    with torch.inference_mode():
        states = (torch.randn(1, 2, 48), torch.randn(1, 2, 48))
        assert torch.equal(kernel(inputs, states)[0], layer(inputs, states)[0])
        assert torch.equal(kernel(inputs[0])[0], layer(inputs[0])[0])  # one text, in two dimensions


def test_lstms_that_fit_are_replaced_and_the_parameters_keep_their_names() -> None:
    model = nn.ModuleDict(
        {
            "fits": nn.Sequential(nn.LSTM(8, 32, bidirectional=True)),
            "odd": nn.LSTM(8, 33),
            "projected": nn.LSTM(8, 32, proj_size=4),
            "exact": nn.LSTM(8, 32).double(),
        }
    ).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert replace_lstms(model) == 1
    assert type(model["fits"][0]) is KernelLstm
    assert not model["fits"][0].training
    assert [type(model[name]) for name in ("odd", "projected", "exact")] == [nn.LSTM] * 3
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert replace_lstms(model) == 0


@pytest.mark.parametrize("batch_sizes", [[2, 3], [3, 1], [3, 0, 2], [5, 1]], ids=str)
def test_batch_sizes_that_cut_no_texts_are_refused(batch_sizes: list[int]) -> None:
    weights = KernelLstm(lstm_of()).recurrent[0]
    with pytest.raises(ValueError, match="sum up to 5 tokens"):
        read_texts(torch.randn(5, 4 * 48), weights, torch.tensor(batch_sizes))
