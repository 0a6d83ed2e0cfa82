"""A linear layer computed in 8-bit integers on the CPU, with fixed activation ranges: a row's result never depends on another.

Shapes: `M` rows, `K` input channels, `N` output channels.

A transformer's activations have a few channels that are far wider than the rest, and one scale for all of them would leave
most channels a handful of steps. So each input channel is centred (Wei et al. 2023, https://arxiv.org/abs/2304.09145) and
divided by a factor of its own, which the weights take over (SmoothQuant, Xiao et al. 2022, https://arxiv.org/abs/2211.10438,
equation 4):

    q_k = round((x_k - centre_k) / s_k) + 128        s_k ~ range_k^a / max_n |W_nk|^(1 - a)
    y_n = sum_k V_nk (q_k - 128 + centre_k / s_k) + b_n        V = W s in integers of one scale a row

None of it takes time in a forward. To quantize is to multiply in any case, here by 1 / s_k, and the constants join the bias.
"""

import contextlib
import warnings
from collections.abc import Mapping

import torch
from torch import library, nn

# The share of a channel's width that the weights take over. On 4,800 texts 0.5, as in SmoothQuant, changed 4% of
# `sentiment-bert`'s decisions; 0.85 to 0.95 changed 1% to 1.5%.
MIGRATION = 0.85
ACTIVATION_MIDDLE, ACTIVATION_MAX = 128, 255
LEAST_RANGE = 1e-3
# Without VNNI the product of 255 and a weight is added to its neighbour's in 16 bits: weights above 64 would saturate.
WEIGHT_MAX, WEIGHT_MAX_NO_VNNI = 127, 64


class Int8Linear(nn.Module):
    """`linear` with int8 weights, one scale an output channel, and uint8 activations; float32 in and out.

    `ranges_2K`: lowest and highest value of each input channel. A value outside is clipped. A subclass multiplies the
    integers.
    """

    def __init__(self, linear: nn.Linear, ranges_2K: torch.Tensor) -> None:
        super().__init__()
        weight_NK = linear.weight.detach().float()
        bias_N = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach().float()
        low_K, high_K = ranges_2K.float()
        half_K = (high_K - low_K) / 2
        # A channel that held one value in all that was observed: its range reaches to 0 and as far on the other side.
        half_K = torch.where(half_K > 0, half_K, high_K.abs().clamp(min=LEAST_RANGE))
        step_K = smoothed_steps(weight_NK, half_ranges_K=half_K)
        zero_K = ACTIVATION_MIDDLE - (low_K + high_K) / 2 / step_K
        folded_NK = weight_NK * step_K
        scale_N = (folded_NK.abs().amax(dim=1) / weight_max()).clamp(min=torch.finfo(torch.float32).tiny)
        integers_NK = (folded_NK / scale_N.unsqueeze(1)).round()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.inverse_step_K = nn.Buffer(1 / step_K)
        self.zero_K = nn.Buffer(zero_K)
        self._keep(integers_NK.to(torch.int8), scale_N, bias_N - scale_N * (integers_NK @ zero_K))

    def _keep(self, weight_NK: torch.Tensor, scale_N: torch.Tensor, bias_N: torch.Tensor) -> None:
        """Packs what the product needs, in the kernel's own form."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class OneDnnLinear(Int8Linear):
    """By oneDNN."""

    def _keep(self, weight_NK: torch.Tensor, scale_N: torch.Tensor, bias_N: torch.Tensor) -> None:
        self.zero_K += 0.5  # rounds, since the conversion to integers cuts the fraction off
        self.scale_N, self.bias_N = nn.Buffer(scale_N), nn.Buffer(bias_N)
        self.weight_zero_N = nn.Buffer(torch.zeros(len(scale_N), dtype=torch.int64))
        self.weight = torch.ops.onednn.qlinear_prepack(weight_NK, None)

    def forward(self, inputs_MK: torch.Tensor) -> torch.Tensor:
        """(..., K) -> (..., N)."""
        scaled_MK = torch.addcmul(self.zero_K, inputs_MK, self.inverse_step_K)
        # By way of int16: torch converts float32 to uint8 one element at a time.
        integers_MK = scaled_MK.clamp_(0, ACTIVATION_MAX).to(torch.int16).to(torch.uint8)
        return torch.ops.onednn.qlinear_pointwise(
            integers_MK, 1.0, 0, self.weight, self.scale_N, self.weight_zero_N, self.bias_N, 1.0, 0, torch.float32, "none", [], ""
        )  # fmt: skip


class FbgemmLinear(Int8Linear):
    """By FBGEMM. It rounds to integers while it packs, and unlike oneDNN keeps nothing for each number of rows that it has
    seen."""

    def _keep(self, weight_NK: torch.Tensor, scale_N: torch.Tensor, bias_N: torch.Tensor) -> None:
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"
        try:
            with warnings.catch_warnings():  # torch plans to drop these tensors; `has_fbgemm` sees when it has
                warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*")
                quantized_NK = torch._make_per_channel_quantized_tensor(
                    weight_NK, scale_N.double(), torch.zeros(len(scale_N), dtype=torch.int64), 0
                )
            self.packed = torch.ops.quantized.linear_prepack(quantized_NK, bias_N)
        finally:
            torch.backends.quantized.engine = engine

    def forward(self, inputs_MK: torch.Tensor) -> torch.Tensor:
        """(..., K) -> (..., N)."""
        scaled_MK = torch.addcmul(self.zero_K, inputs_MK, self.inverse_step_K)
        if torch.compiler.is_compiling():
            return self._traced(scaled_MK)
        return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(scaled_MK, 1.0, 0, self.packed)

    def unpack(self) -> None:
        """Keeps the weights a second time, in the form that the compiler takes. To be called before it compiles the layer."""
        quantized_NK, bias_N = torch.ops.quantized.linear_unpack(self.packed)
        self.weight_NK = nn.Buffer(quantized_NK.int_repr(), persistent=False)
        self.scale_N = nn.Buffer(quantized_NK.q_per_channel_scales().float(), persistent=False)
        self.weight_zero_N = nn.Buffer(torch.zeros(self.out_features, dtype=torch.int64), persistent=False)
        self.bias_N = nn.Buffer(bias_N.detach(), persistent=False)

    def _traced(self, scaled_MK: torch.Tensor) -> torch.Tensor:
        """The same in operators of which the compiler makes one kernel with what stands around them.

        The bias is added after the product, not by it. If another sum followed the product at once, the compiler would do that
        sum in place, on a tensor that others still read (torch 2.13).
        """
        integers_MK = scaled_MK.round().clamp(0, ACTIVATION_MAX).to(torch.uint8)
        weight = torch.ops.onednn.qlinear_prepack(self.weight_NK, None)  # a constant, where the compiler freezes the weights
        product_MN = torch.ops.onednn.qlinear_pointwise(
            integers_MK, 1.0, 0, weight, self.scale_N, self.weight_zero_N, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return product_MN + self.bias_N


def _prepacked_shape(weight_NK: torch.Tensor, shape: list[int] | None) -> torch.Tensor:
    return weight_NK.new_empty(weight_NK.shape[::-1])


with contextlib.suppress(AttributeError, RuntimeError):  # a torch without oneDNN lacks the operator
    library.register_fake("onednn::qlinear_prepack", _prepacked_shape)


def unpack_for_compiler(model: nn.Module) -> bool:
    """Makes the int8 layers of a model ready for `torch.compile`; whether it has any."""
    layers = [module for module in model.modules() if isinstance(module, FbgemmLinear)]
    for layer in layers:
        layer.unpack()
    return bool(layers)


def int8_linear(linear: nn.Linear, ranges_2K: torch.Tensor) -> Int8Linear:
    """The faster kind. A forward of one text of 23 tokens took 5.9 ms by FBGEMM and 6.4 ms by oneDNN; without VNNI, 7.4 and 9.7
    ms. Large batches took as long by either."""
    return (FbgemmLinear if has_fbgemm() else OneDnnLinear)(linear, ranges_2K)


def has_fbgemm() -> bool:
    """Whether this torch has FBGEMM's linear layer, on this processor."""
    return (
        "fbgemm" in torch.backends.quantized.supported_engines
        and hasattr(torch, "_make_per_channel_quantized_tensor")
        and hasattr(torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32")
    )


def smoothed_steps(weight_NK: torch.Tensor, *, half_ranges_K: torch.Tensor) -> torch.Tensor:
    """The width (K) of one of the 255 activation steps, by channel. The channel whose range is widest for its step uses them
    all."""
    range_K = half_ranges_K.clamp(min=1e-4 * float(half_ranges_K.max()) + torch.finfo(torch.float32).tiny)
    widest_weight_K = weight_NK.abs().amax(dim=0)
    widest_weight_K = widest_weight_K.clamp(min=1e-4 * float(widest_weight_K.max()) + torch.finfo(torch.float32).tiny)
    step_K = range_K**MIGRATION / widest_weight_K ** (1 - MIGRATION)
    return step_K * (range_K / step_K).max() / (ACTIVATION_MAX - ACTIVATION_MIDDLE)


def weight_max() -> int:
    """The largest integer weight whose products this processor adds without saturation."""
    return WEIGHT_MAX if torch.cpu._is_vnni_supported() else WEIGHT_MAX_NO_VNNI


def quantize_linears(model: nn.Module, ranges: Mapping[str, torch.Tensor]) -> None:
    """Replaces the linear layers that `ranges` names, (2, K) each, by `Int8Linear`. Raises KeyError for a name without one."""
    layers = dict(model.named_modules())
    for name, ranges_2K in ranges.items():
        layer = layers[name]
        if not isinstance(layer, nn.Linear) or layer.in_features != ranges_2K.shape[1]:
            raise KeyError(name)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, int8_linear(layer, ranges_2K))
