"""The weights of a checkpoint in this process' memory."""

import ctypes
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from service.served.adapter import read_adapter, tensor_shapes, with_labels
from service.served.catalog import CatalogError, ServedModel
from service.served.configuration import built_from, classifier_class, read_config
from service.served.files import ADAPTER_WEIGHTS, loaded_files, weight_files
from service.served.refusal import reading

log = logging.getLogger("valence.worker")
# glibc's mallopt: parameters by number, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


def load_model(served: ServedModel, *, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    """The classifier, on the CPU, with the weights of its files. CatalogError where they can't be read, or are not those of the
    architecture: transformers would fill the gaps with random numbers and warn."""
    if served.base is not None:
        merged = _merged(served.base, served.path, trust_remote_code=trust_remote_code)
        # Not by `.to`, which would round the buffers too: a load leaves rotary frequencies in float32.
        model = type(merged).from_pretrained(None, config=merged.config, state_dict=merged.state_dict(), dtype=dtype)
        model.load_state_dict(merged.state_dict())  # as `_put_back`
        return model
    weights = weight_files(served.path)[0]
    model, found = _loaded(served.path, weights, dtype=dtype, trust_remote_code=trust_remote_code)
    _check_complete(found, weights)
    if found["unexpected_keys"]:
        name, *others = sorted(found["unexpected_keys"])
        more = f" and {len(others)} more tensors" if others else ""
        log.warning("%s: %s%s are in the file and not in %s; they are left out", weights, name, more, type(model).__name__)
    _put_back(model, served.path)
    _make_buffers_anew(model, served.path)
    return model


def _merged(base: Path, path: Path, *, trust_remote_code: bool) -> PreTrainedModel:
    """An adapter merged into its base, in float32, as peft computes it."""
    from peft import PeftConfig, PeftModelForSequenceClassification

    adapter = read_adapter(path)
    config = read_config(base, trust_remote_code=trust_remote_code)
    model_class = classifier_class(config, base, trust_remote_code=trust_remote_code)
    config = with_labels(built_from(config, model_class), adapter, model_class)
    weights = weight_files(base)[0]
    model, found = _loaded(base, weights, dtype=torch.float32, trust_remote_code=trust_remote_code, config=config)
    _check_complete(found, weights, but=tensor_shapes(path).keys())
    _put_back(model, base)
    file = path / ADAPTER_WEIGHTS
    with reading(file):
        model = PeftModelForSequenceClassification(model, PeftConfig.from_pretrained(path))
        result = model.load_adapter(path, "default", torch_device="cpu")
        # With bias="all" peft saves the head's bias under two names, and reads one.
        strays = sorted({*result.missing_keys, *(name for name in result.unexpected_keys if ".modules_to_save." not in name)})
        if strays:
            raise CatalogError(f"{file}: {strays[0]} does not fit {base}; this adapter was trained on another model")
        return model.merge_and_unload(safe_merge=True).requires_grad_(True)


def _loaded(
    path: Path, weights: Path, *, dtype: torch.dtype, trust_remote_code: bool, config: PreTrainedConfig | None = None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model, and what transformers tells of the load."""
    with reading(weights):
        return AutoModelForSequenceClassification.from_pretrained(
            path,
            **({} if config is None else {"config": config}),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )


def _check_complete(found: dict[str, Any], weights: Path, *, but: Any = frozenset()) -> None:
    """CatalogError where weights are missing or have another shape, `but` those that an adapter brings."""
    shapes = sorted(row for row in found["mismatched_keys"] if row[0] not in but)
    if shapes:
        name, stored, wanted = shapes[0]
        raise CatalogError(f"{weights}: {name} has shape {tuple(stored)}, but config.json asks for {tuple(wanted)}")
    if missing := sorted(set(found["missing_keys"]) - set(but)):
        name, *others = missing
        raise CatalogError(f"{weights}: no {name}, and {len(others)} more are missing; these are weights of another architecture")


@torch.no_grad()
def _put_back(model: PreTrainedModel, path: Path) -> None:
    """Holds every weight against its file. Some versions of transformers draw a weight anew after they have read it, where the
    class' `_init_weights` writes through `weight.data`, and say nothing (https://github.com/huggingface/transformers/issues/46620).
    """
    redrawn = []
    for name, stored, weight in _both(model, path):
        wanted = stored.to(weight.dtype)
        if not torch.equal(weight, wanted) and not torch.allclose(weight, wanted, rtol=0.0, atol=0.0, equal_nan=True):
            weight.copy_(wanted)
            redrawn.append(name)
    if redrawn:
        more = f" and {len(redrawn) - 1} more" if redrawn[1:] else ""
        log.warning(
            "%s: %s draws %s%s anew when it is loaded; the values of the file were put back. "
            "Let its _init_weights use torch.nn.init",
            path,
            type(model).__name__,
            redrawn[0],
            more,
        )


@torch.no_grad()
def _make_buffers_anew(model: PreTrainedModel, path: Path) -> None:
    """Gives a class of somebody else's the buffers that its constructor makes and no file holds, as a table of positions.

    transformers builds a model without memory and then fills in what the file holds. Of other buffers it leaves whatever stood in
    memory, and says nothing, unless the class' `_init_weights` makes them again."""
    saved = model.state_dict().keys()
    names = [name for name, _ in model.named_buffers() if name not in saved]
    if not names or type(model).__module__.startswith("transformers."):
        return
    with torch.random.fork_rng(devices=[]):
        made = dict(type(model)(model.config).named_buffers())
    wrong = [name for name in names if not torch.equal(model.get_buffer(name), made[name].to(model.get_buffer(name).dtype))]
    for name in wrong:
        model.get_buffer(name).copy_(made[name])
    if wrong:
        log.warning(
            "%s: transformers does not fill %s of %s when it loads it; made anew, as the constructor makes it. "
            "Let its _init_weights make it again, or save it (persistent=True)",
            path, ", ".join(wrong), type(model).__name__,
        )  # fmt: skip


def _both(model: PreTrainedModel, path: Path) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Each tensor of the files with the weight that it became, as `save_pretrained` would name it. What a load joins or computes
    has no one weight, and is left out."""
    own = {weight.untyped_storage().data_ptr() for weight in model.state_dict().values()}
    saved = {
        name: weight
        for name, weight in revert_weight_conversion(model, model.state_dict()).items()
        if isinstance(weight, torch.Tensor) and weight.untyped_storage().data_ptr() in own
    }
    prefix = f"{model.base_model_prefix}."
    for file in loaded_files(path):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                weight = next((saved[key] for key in (name, prefix + name, name.removeprefix(prefix)) if key in saved), None)
                if weight is not None and weight.shape == torch.Size(opened.get_slice(name).get_shape()):
                    yield name, opened.get_tensor(name), weight


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
