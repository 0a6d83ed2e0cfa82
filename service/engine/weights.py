"""The weights of a checkpoint in this process' memory."""

import ctypes

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from models.int8 import RANGES_FILE
from service.served.catalog import CatalogError, ServedModel

# glibc's mallopt: parameters by number, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


def load_model(served: ServedModel, *, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    """CatalogError where the weights can't be read, or are not those of the architecture: transformers would fill the gaps with
    random numbers and warn."""
    weights = next(path for path in sorted(served.path.glob("*.safetensors")) if path.name != RANGES_FILE)
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            served.path,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise CatalogError(f"{weights}: {str(error).strip().splitlines()[0]}") from error
    if found["mismatched_keys"]:
        name, stored, wanted = sorted(found["mismatched_keys"])[0]
        raise CatalogError(f"{weights}: {name} has shape {tuple(stored)}, but config.json asks for {tuple(wanted)}")
    if found["missing_keys"]:
        name, *others = sorted(found["missing_keys"])
        raise CatalogError(f"{weights}: no {name}, and {len(others)} more are missing; these are weights of another architecture")
    return model


def own_weights(model: PreTrainedModel) -> None:
    """Copies the weights. Until then those of a CPU model in its file's own type are the file itself, mapped into memory: a new
    checkpoint written over it changes the scores of the one that is served, and a shorter one ends the process."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def keep_freed_memory() -> None:
    """Makes glibc keep what a forward frees for the next one. Given back to the system, it is cleared page by page when it is
    asked for again, which cost a sixth of a CPU forward. Without glibc, nothing happens."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(option, KEPT_BYTES)
