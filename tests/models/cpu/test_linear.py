"""Linear layers in oneDNN's order, held against the layers that they were."""

from pathlib import Path

import pytest
import torch
from torch import nn

from models.cpu import linear as module
from models.cpu.linear import PrepackedLinear, gains_from_onednn, has_prepacked, prepack_linears

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
# Of results of up to 5, two sums of 100 products in different orders.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2**-6}


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Makes the processor look like one of a vendor."""

    def set_processor(vendor: str | None, capability: str = "AVX512") -> None:
        monkeypatch.setattr(module, "CPUINFO", tmp_path / "cpuinfo")
        if vendor is not None:
            (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n\nprocessor\t: 1\nvendor_id\t: {vendor}\n")
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        gains_from_onednn.cache_clear()

    yield set_processor
    gains_from_onednn.cache_clear()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCES)
@torch.inference_mode()
def test_rows_are_those_of_the_layer_whatever_they_come_with(dtype: torch.dtype, bias: bool) -> None:
    if dtype == torch.bfloat16 and not gains_from_onednn(dtype):
        pytest.skip("oneDNN lacks it on this processor")
    torch.manual_seed(0)
    linear = nn.Linear(96, 130, bias=bias).to(dtype)
    layer = PrepackedLinear(linear)
    inputs = torch.randn(3, 700, 96).to(dtype)
    outputs = layer(inputs)
    assert outputs.dtype == dtype
    assert (outputs.double() - linear(inputs).double()).abs().max() <= TOLERANCES[dtype]
    for rows in (1, 2, 23, 333):
        assert (layer(inputs[1, :rows]).double() - outputs[1, :rows].double()).abs().max() <= TOLERANCES[dtype]
    assert layer(inputs[:, :0]).shape == (3, 0, 130)


def test_a_gradient_is_the_layers_own() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 64)
    layer = PrepackedLinear(linear)
    inputs = torch.randn(5, 64, requires_grad=True)
    (expected,) = torch.autograd.grad(linear(inputs).square().sum(), inputs)
    (found,) = torch.autograd.grad(layer(inputs).square().sum(), inputs)
    assert torch.equal(found, expected)


def test_wide_layers_are_replaced_and_the_parameters_keep_their_names(processor) -> None:
    processor("AuthenticAMD")
    model = nn.ModuleDict(
        {"wide": nn.Sequential(nn.Linear(64, 64)), "narrow": nn.Linear(64, 3), "exact": nn.Linear(64, 64).double()}
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not has_prepacked(model)
    assert prepack_linears(model) == 1
    assert has_prepacked(model)
    assert type(model["wide"][0]) is PrepackedLinear
    assert type(model["narrow"]) is type(model["exact"]) is nn.Linear
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert prepack_linears(model) == 0


@pytest.mark.parametrize(
    ("vendor", "capability", "gains"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        (None, "AVX512", False),
    ],
)
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="needs MKL")
def test_float32_gains_where_mkl_leaves_avx512_unused(processor, vendor: str | None, capability: str, gains: bool) -> None:
    processor(vendor, capability)
    assert gains_from_onednn(torch.float32) is gains


def test_half_precision_gains_where_onednn_has_it() -> None:
    assert gains_from_onednn(torch.bfloat16) is torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert not gains_from_onednn(torch.float64)
