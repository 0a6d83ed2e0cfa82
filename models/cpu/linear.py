"""Linear layers on the CPU whose weights lie in oneDNN's own order, for a model that is served.

In half precision torch has oneDNN bring the weights into that order at each call. On a core of a Zen 5 processor a layer of 384
to 1152 channels took 0.077 ms for one text of 23 tokens that way, and 0.056 ms with weights brought there once; in full batches
the gain was a factor of 1.06. In float32 torch asks MKL, which leaves half of AVX-512 unused on processors that are not Intel's.
There MKL does 55 billion products a second on a core, and oneDNN 128.
"""

from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from models.cpu.library import ARE_OURS_WANTED

CPUINFO = Path("/proc/cpuinfo")
# Below this many channels on either side a call costs more than the order gains.
LEAST_CHANNELS = 64


class PrepackedLinear(nn.Linear):
    """`linear` with a second copy of its weights, in oneDNN's order. Where a gradient is asked for, it computes as before."""

    is_prepacked = True

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.prepacked = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), of the weights' type."""
        if torch.is_grad_enabled():
            return F.linear(input, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(input, self.prepacked, self.bias, "none", [], "")


def prepack_linears(model: nn.Module) -> int:
    """Replaces the linear layers that gain from it, and returns how many. The parameters keep their names, but a later change of
    their values or type does not reach the scores."""
    replaced = 0
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and (better := prepacked(layer)) is not layer:
            model.set_submodule(name, better)
            replaced += 1
    return replaced


def has_prepacked(model: nn.Module) -> bool:
    """Whether a layer of the model has weights in oneDNN's order."""
    return any(getattr(layer, "is_prepacked", False) for layer in model.modules())


def prepacked(layer: nn.Linear) -> nn.Linear:
    """The layer with its weights in oneDNN's order; itself where nothing is gained by that."""
    wide = min(layer.in_features, layer.out_features) >= LEAST_CHANNELS
    gains = wide and ARE_OURS_WANTED.get() and layer.weight.device.type == "cpu" and gains_from_onednn(layer.weight.dtype)
    return PrepackedLinear(layer) if gains else layer


@cache
def gains_from_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN with weights in its order is faster here than what torch does by itself."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.float32:
        others_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512" and _vendor() not in ("", "GenuineIntel")
        return others_avx512 and torch.backends.mkl.is_available()
    supported = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return dtype in supported and bool(getattr(torch.ops.mkldnn, supported[dtype])())


def _vendor() -> str:
    """As Linux names it; empty where it does not."""
    if not CPUINFO.exists():
        return ""
    lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
