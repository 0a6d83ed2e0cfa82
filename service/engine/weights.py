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
    """The model of a checkpoint. CatalogError if its weights can't be read or are not those of the architecture.

    transformers would only warn, and fill the gaps with random numbers."""
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
    """Copies the weights of a model on the CPU.

    Weights that are loaded in the type of their file are the file itself, mapped into memory. A new checkpoint written over that
    file would change the scores of the served one, and a shorter file would end the process."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def keep_freed_memory() -> None:
    """Makes glibc keep the memory that a forward frees for the next one. Without glibc nothing happens.

    The system clears memory page by page when it hands it out again, which took a sixth of the time of a CPU forward."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(option, KEPT_BYTES)
