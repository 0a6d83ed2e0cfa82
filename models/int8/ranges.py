"""The activation ranges of a checkpoint, observed on texts of its kind and kept beside its weights."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.int8.linear import quantize_linears

RANGES_FILE = "int8_ranges.safetensors"
# Below this many channels on either side a layer gains nothing. So the last layer of a classifier stays in float32.
LEAST_CHANNELS = 64


class RangesError(ValueError):
    """A checkpoint can't be served in int8; the message names the file, the reason and the remedy."""


class _Observer:
    """The lowest and highest value of each input channel of one layer."""

    def __init__(self, layer: nn.Linear) -> None:
        self.low_K = torch.full((layer.in_features,), torch.inf)
        self.high_K = -self.low_K
        self.rows = 0
        self.handle = layer.register_forward_pre_hook(self.observe)

    def observe(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows_MK = inputs[0].float().flatten(0, -2)
        self.low_K = torch.minimum(self.low_K, rows_MK.amin(0))
        self.high_K = torch.maximum(self.high_K, rows_MK.amax(0))
        self.rows += len(rows_MK)

    def ranges_2K(self) -> torch.Tensor:
        return torch.stack([self.low_K, self.high_K])


@torch.inference_mode()
def observe_ranges(model: nn.Module, texts: Iterable[list[int]]) -> dict[str, torch.Tensor]:
    """Ranges (2, K) of every linear layer that int8 makes faster, by module name, over `texts` as token ids: the lowest and
    the highest value of each input channel. Narrow layers are left out.

    Layers that see only one row a text are not left out: reading their float32 weights took 8% of a lone text's forward.
    """
    observers = {
        name: _Observer(layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and min(layer.in_features, layer.out_features) >= LEAST_CHANNELS
    }
    for ids in texts:
        model(input_ids=torch.tensor([ids]))
    for observer in observers.values():
        observer.handle.remove()
    return {name: observer.ranges_2K() for name, observer in observers.items() if observer.rows}


def write_ranges(checkpoint: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> int:
    """Observes `model`, in float32, on `texts` and writes its ranges into the folder; returns how many layers they name."""
    model.eval()
    prepare_for_inference(model)
    limit = getattr(model.config, "max_position_embeddings", None) or 512
    ranges = observe_ranges(model, tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"])
    save_ranges(checkpoint, ranges)
    return len(ranges)


def save_ranges(checkpoint: Path, ranges: dict[str, torch.Tensor]) -> None:
    """Writes `RANGES_FILE` into the folder, with a fingerprint of the weights it belongs to."""
    tensors = {name: tensor.contiguous() for name, tensor in ranges.items()}
    save_file(tensors, checkpoint / RANGES_FILE, metadata={"weights": fingerprint(checkpoint)})
    (checkpoint / RANGES_FILE).chmod(0o644)  # safetensors leaves it readable to its owner alone, but a container may serve it


def load_ranges(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The ranges in the folder; RangesError where there are none, or where they belong to other weights."""
    path = checkpoint / RANGES_FILE
    remedy = f"make it with: python -m models.int8 {checkpoint} --texts FILE"
    if not path.is_file():
        raise RangesError(f"{path}: no such file, and int8 needs it; {remedy}")
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("weights") != fingerprint(checkpoint):
                raise RangesError(f"{path}: made for other weights than those in the folder; {remedy}")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except SafetensorError as error:
        raise RangesError(f"{path}: {error}; {remedy}") from error


def fingerprint(checkpoint: Path) -> str:
    """SHA-256 over the weights' files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(checkpoint.glob("*.safetensors")):
        if path.name != RANGES_FILE:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def prepare_for_inference(model: PreTrainedModel) -> None:
    """Fuses what the architecture can fuse: ranges name the layers as they run in the service."""
    if hasattr(model, "fuse_projections"):
        model.fuse_projections()


def quantize(model: PreTrainedModel, checkpoint: Path) -> bool:
    """Puts the model of `checkpoint`, in float32 and prepared for inference, into int8; False where no layer of it gains.

    RangesError where the folder holds no ranges, or some that don't fit.
    """
    ranges = load_ranges(checkpoint)
    try:
        quantize_linears(model, ranges)
    except KeyError as error:
        raise RangesError(f"{checkpoint / RANGES_FILE}: {error} is no linear layer of the model as it runs") from error
    return bool(ranges)
