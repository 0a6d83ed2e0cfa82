"""torchinfo's summary of one forward: the shapes on the way."""

from typing import Any

from models.inspect.report import Cell, Section
from models.inspect.subject import TEXTS, Subject


def summary(subject: Subject, *, depth: int = 3) -> Section:
    """To `depth` levels below the model, over a batch of `TEXTS`. ImportError without the extra `inspect`.

    Its count of multiplications is left out: it takes an embedding for a product, and an LSTM's steps times its rows."""
    import torchinfo  # of an extra

    inputs = subject.batch(TEXTS)
    found = torchinfo.summary(subject.model, input_data=inputs, depth=depth, verbose=0, col_names=("output_size", "num_params"))
    rows = [_row(layer) for layer in found.summary_list if layer.depth <= depth]
    texts, tokens = inputs["input_ids"].shape
    notes = [
        f"A batch of {texts} texts of up to {tokens} tokens: layers' outputs of {found.total_output_bytes / 2**20:.1f} MiB, as "
        "training would keep them."
    ]
    return Section("summary", ("layer", "class", "output", "parameters"), rows, notes)


def _row(layer: Any) -> tuple[Cell, ...]:
    shape = " x ".join(map(str, layer.output_size)) if layer.output_size else None
    return "  " * layer.depth + (layer.var_name if layer.depth else "model"), layer.class_name, shape, layer.num_params
