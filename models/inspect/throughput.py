"""How fast a forward is: measured here, and estimated for devices that are not.

The estimate holds the arithmetic of one token against a device's peak by its maker's data sheet. The arithmetic is what torch's
FLOP counter counts over a real forward. It does not know an LSTM's kernels, so they count as two operations for each weight and
token. Large packed batches of a BERT-base come to a third of the peak. Small models and small batches come to less, often much
less, since starting the kernels takes longer than running them.
"""

import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.inspect.report import Cell, Section
from models.inspect.subject import TEXTS, Subject

SECONDS, WARM_UP, COPIES = 1.0, 2, 4
UTILISATION = 1 / 3
# Dense bfloat16 (T4: float16) tensor-core TFLOP/s, from the makers' data sheets.
PEAKS = {"NVIDIA T4": 65, "NVIDIA L4": 121, "NVIDIA A10": 125, "NVIDIA A100": 312, "NVIDIA H100 SXM": 989}


def throughput(subject: Subject, *, seconds: float = SECONDS) -> Section:
    """Measured for about `seconds` on each device of this machine, in float32, padded batches."""
    batch = subject.batch(TEXTS * COPIES)
    tokens = int(batch["attention_mask"].sum())
    texts = len(batch["input_ids"])
    each = sum(flops(subject, subject.batch([text])) for text in TEXTS) * COPIES / tokens
    cost = Cost(each, texts / tokens)
    rows = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        rows.append(cost.row(device_name(device), "measured", tokens / measure(subject, batch, device, seconds)))
    rows += [cost.row(name, "estimate", UTILISATION * peak * 1e12 / each, peak=peak) for name, peak in PEAKS.items()]
    notes = [
        f"{each / 1e6:.1f} MFLOP a token. Measured in float32, padded: {texts} texts, {tokens} tokens.",
        f"Estimate, not measured: {UTILISATION:.0%} of the peak in half precision, which a small model does not reach.",
    ]
    return Section("throughput", ("device", "how", "tokens/s", "texts/s", "TFLOP/s", "peak TFLOP/s"), rows, notes)


@dataclass(frozen=True)
class Cost:
    """FLOP of one token, and texts for each."""

    flops: float
    texts: float

    def row(self, name: str, how: str, tokens_per_s: float, *, peak: float | None = None) -> tuple[Cell, ...]:
        return name, how, tokens_per_s, tokens_per_s * self.texts, tokens_per_s * self.flops / 1e12, peak


@torch.inference_mode()
def flops(subject: Subject, batch: dict[str, torch.Tensor]) -> float:
    """Floating-point operations of one forward, a product and its addition counted as two."""
    counter = FlopCounterMode(display=False)
    with counter:
        subject.model(**batch)
    recurrent = sum(
        parameter.numel()
        for module in subject.model.modules()
        if isinstance(module, nn.RNNBase)
        for name, parameter in module.named_parameters()
        if name.startswith("weight")
    )
    return counter.get_total_flops() + 2.0 * recurrent * int(batch["attention_mask"].sum())


@torch.inference_mode()
def measure(subject: Subject, batch: dict[str, torch.Tensor], device: str, seconds: float) -> float:
    """Seconds of the fastest of the forwards; what else runs on the machine only adds."""
    model = subject.model.to(device)
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    times: list[float] = []
    try:
        began_at = time.perf_counter()
        while len(times) < WARM_UP + 1 or time.perf_counter() - began_at < seconds:
            started_at = time.perf_counter()
            model(**inputs)
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started_at)
    finally:
        subject.model.to("cpu")
    return min(times[WARM_UP:])


def device_name(device: str) -> str:
    """This machine's."""
    return torch.cuda.get_device_name() if device == "cuda" else f"this CPU, {torch.get_num_threads()} threads"
