"""Where the parameters are, and what memory the weights take."""

import copy
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from models.inspect.report import Cell, Section
from models.inspect.subject import Subject
from models.int8 import RANGES_FILE, RangesError, load_ranges, prepare_for_inference
from models.int8.ranges import LEAST_CHANNELS

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Beside a byte a weight: scale, bias and zero of an output channel (float32, float32, int64), step and zero of an input channel.
BYTES_BY_OUTPUT, BYTES_BY_INPUT = 16, 8


def parameters(subject: Subject, *, depth: int = 3) -> Section:
    """By module, to `depth` levels below the model. What two modules share is counted in both, and once in the sum."""
    total = sum(parameter.numel() for parameter in subject.model.parameters())
    trained = sum(parameter.numel() for parameter in subject.model.parameters() if parameter.requires_grad)
    rows = list(_rows(subject.model, total, depth=depth))
    notes = [f"{total:,} parameters, {trained:,} of them trainable."]
    return Section("parameters", ("module", "class", "parameters", "%"), rows, notes)


def _rows(model: PreTrainedModel, total: int, *, depth: int) -> Iterator[tuple[Cell, ...]]:
    for name, module in model.named_modules():
        level = name.count(".") + 1 if name else 0
        count = sum(parameter.numel() for parameter in module.parameters())
        if count and level <= depth:
            yield "  " * level + (name.rpartition(".")[2] or "model"), type(module).__name__, count, 100 * count / total


def memory(subject: Subject) -> Section:
    """Of the weights alone, by the dtype in which they can be served."""
    model = subject.model
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    count = sum(parameter.numel() for parameter in model.parameters())
    sizes = {name: size * count + buffers for name, size in BYTES.items()}
    layers, which = int8_layers(subject)
    sizes["int8"] = sizes["float32"] + sum(map(saved_by_int8, layers))
    files = sum(path.stat().st_size for path in subject.folder.glob("*.safetensors") if path.name != RANGES_FILE)
    notes = [
        f"int8: {len(layers)} linear layers, {which}; the rest stays float32. What its kernels pad is not counted.",
        f"On disk the weights take {files:,} bytes. Each worker holds them once, and a forward takes memory beside them.",
    ]
    return Section("memory", ("dtype", "MiB", "bytes"), [(name, size / 2**20, size) for name, size in sizes.items()], notes)


def int8_layers(subject: Subject) -> tuple[list[nn.Linear], str]:
    """The layers that int8 puts into integers, and how that is known."""
    served = copy.deepcopy(subject.model)
    prepare_for_inference(served)
    linears = {name: layer for name, layer in served.named_modules() if isinstance(layer, nn.Linear)}
    try:
        named = load_ranges(subject.folder)
    except RangesError:
        wide = [layer for layer in linears.values() if min(layer.in_features, layer.out_features) >= LEAST_CHANNELS]
        return wide, f"those of {LEAST_CHANNELS} channels and more (there is no {RANGES_FILE} to say which)"
    return [linears[name] for name in named if name in linears], f"those that {RANGES_FILE} names"


def saved_by_int8(layer: nn.Linear) -> int:
    """Bytes more, so a negative number, than in float32."""
    weights, inputs, outputs = layer.in_features * layer.out_features, layer.in_features, layer.out_features
    in_float32 = 4 * (weights + outputs * (layer.bias is not None))
    return weights + BYTES_BY_OUTPUT * outputs + BYTES_BY_INPUT * inputs - in_float32
