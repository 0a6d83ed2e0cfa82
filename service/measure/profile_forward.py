"""`python -m service.measure.profile_forward`: where one saturated second of the served forward goes, as a table and a picture.

Full batches run under torch's profiler in one process with the threads of one worker. Each operator's own time is added to that
of its kind; on CUDA it is the time of its kernels. The picture needs matplotlib.
"""

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from service.engine.engine import Engine
from service.engine.packs import TextIds
from service.measure.forward_rate import loaded, token_batches
from service.settings import Settings

# An operator belongs to the first kind that lists a part of its name.
KINDS: Mapping[str, tuple[str, ...]] = {
    "matrix products": ("qlinear", "addmm", "linear", "::mm", "bmm", "matmul", "gemm", "nvjet"),
    "attention": ("attention", "attn", "attend", "flash", "softmax"),
    "LSTM": ("lstm", "mkldnn_rnn"),
    "activations": ("gelu", "tanh", "silu", "relu", "sigmoid"),
    "layer norm": ("layer_norm", "layernorm"),
    "conversion to integers": ("addcmul", "clamp"),
    "copies and additions": ("copy_", "cat", "add", "index", "embedding", "gather", "contiguous", "clone", "memcpy"),
}
OTHER = "the rest"


def main() -> None:
    """Prints a table, and draws it where a picture is asked for."""
    options = parser().parse_args()
    found = {dtype: shares(options, dtype) for dtype in options.dtypes.split(",")}
    for dtype, share in found.items():
        print(dtype)
        for kind, part in share.items():
            print(f"  {kind:24} {part:6.1%}")
    if options.picture:
        draw(found, options.picture)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m service.measure.profile_forward", description=__doc__)
    result.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    result.add_argument("--texts", type=Path, required=True, help="a text a line")
    result.add_argument("--dtypes", default="float32,int8", help="comma-separated")
    result.add_argument("--device", default="auto")
    result.add_argument("--seconds", type=float, default=1.0)
    result.add_argument("--picture", type=Path, help="a .png to write")
    return result


def shares(options: argparse.Namespace, dtype: str) -> dict[str, float]:
    """The part of the time that each kind of operator takes, largest first."""
    settings = Settings.model_validate({"models": (f"model={options.model}",), "dtype": dtype, "device": options.device})
    device = settings.accelerator()
    engine, texts = loaded(settings, device, texts=options.texts)
    spent = profiled(engine, token_batches(texts, settings.batch_tokens(device)), seconds=options.seconds)
    return {kind: time_s / spent.total() for kind, time_s in spent.most_common()}


def profiled(engine: Engine, batches: Sequence[Sequence[TextIds]], *, seconds: float) -> Counter[str]:
    """The time by kind of operator."""
    engine.logits(batches[0])
    on_cuda = engine.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU]) as recorded:
        started_at = time.perf_counter()
        for place in range(10**6):
            engine.logits(batches[place % len(batches)])
            if time.perf_counter() - started_at > seconds:
                break
    spent: Counter[str] = Counter()
    for event in recorded.key_averages():
        spent[kind_of(event.key)] += event.self_device_time_total if on_cuda else event.self_cpu_time_total
    return spent


def kind_of(operator: str) -> str:
    """What an operator is for.

    >>> kind_of("aten::addmm"), kind_of("aten::native_layer_norm"), kind_of("aten::view")
    ('matrix products', 'layer norm', 'the rest')
    """
    name = operator.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), OTHER)


def draw(found: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """A bar for each dtype, cut by kind."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 1.6 + 0.6 * len(found)), layout="constrained")
    lefts = [0.0] * len(found)
    for kind in [*KINDS, OTHER]:
        parts = [100 * share.get(kind, 0.0) for share in found.values()]
        if not any(parts):
            continue
        bars = axes.barh(list(found), parts, left=lefts, label=kind)
        axes.bar_label(bars, labels=[f"{part:.0f}" if part >= 2 else "" for part in parts], label_type="center", fontsize=8)
        lefts = [left + part for left, part in zip(lefts, parts, strict=True)]
    axes.set_xlabel("% of one saturated second of the forward")
    axes.set_xlim(0, 100)
    axes.invert_yaxis()
    axes.legend(ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.35))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
