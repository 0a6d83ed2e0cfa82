"""One loaded model on one device: token ids in, logits out.

A class that declares `_supports_packed` gets its texts packed, with no padding, and so does an encoder that is found to take
packs through transformers' attention interface; any other gets them padded in groups of similar length. The engine never asks
which architecture it holds.
"""

import ctypes
import ctypes.util
import inspect
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from models.attention import enable_packing
from models.int8 import prepare_for_inference, quantize
from service.catalog import ServedModel
from service.settings import Settings

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
# int8: what is not a linear layer stays in float32.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.float32}
# A padded group ends where the next text would be longer than this times the group's first, so padding stays under a fifth.
PADDED_GROUP_RATIO = 1.25
# glibc's mallopt: parameters by number, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


class TextIds(msgspec.Struct, gc=False):  # made for every text: a struct takes a tenth of a frozen dataclass's time
    """One text: token ids (L), and token types (L) where it has a partner."""

    ids: IntArray
    types: IntArray | None = None


class Engine:
    """A model that scores batches of texts of any lengths. `details` says what it runs on, for `/info`."""

    def __init__(self, served: ServedModel, *, device: str, settings: Settings) -> None:
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.dtype_name = _dtype_name(settings.dtype, self.device)
        model = _load(served, dtype=DTYPES[self.dtype_name], trust_remote_code=settings.trust_remote_code)
        self.packed = settings.attn_implementation in ("auto", "packed") and (
            getattr(type(model), "_supports_packed", False) or enable_packing(model)
        )
        attention = _choose_attention(model, settings.attn_implementation, packed=self.packed)
        prepare_for_inference(model)
        if self.dtype_name == "int8" and not quantize(model, served.path):
            self.dtype_name = "float32"
        self.model = model.eval().to(self.device)
        self.takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        self.pad_token_id = model.config.pad_token_id or 0
        self.details = {
            "device": device,
            "dtype": self.dtype_name,
            "attention": attention,
            "batching": "packed" if self.packed else "padded",
            "class": type(model).__name__,
        }

    @torch.inference_mode()
    def logits(self, texts: Sequence[TextIds]) -> FloatArray:
        """(texts, labels) float32, in the order given. Raises what the model raises."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index].ids))
        ordered = [texts[index] for index in order]
        scored = self._packed(ordered) if self.packed else self._padded(ordered)
        logits = scored.float().cpu().numpy()
        result = np.empty_like(logits)
        result[order] = logits
        return result

    def padding(self, texts: Sequence[TextIds]) -> int:
        """Padding tokens that scoring `texts` computes."""
        if self.packed:
            return 0
        ordered = sorted(texts, key=lambda text: len(text.ids))
        return sum(len(group[-1].ids) - len(text.ids) for group in similar_lengths(ordered) for text in group)

    def warm_up(self) -> None:
        """A real forward of short and long texts; the worker reports ready only after it."""
        for lengths in ((8,), (4, 4, 16, 32)):
            texts = [TextIds(np.full(length, self.pad_token_id + 1, dtype=np.int32)) for length in lengths]
            if not np.isfinite(self.logits(texts)).all():
                raise ValueError(f"{self.details['class']}: the first forward gave a score that is not a number")

    def _packed(self, texts: Sequence[TextIds]) -> torch.Tensor:
        lengths = np.array([len(text.ids) for text in texts])
        bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        positions = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
        longest = int(lengths[-1])
        cu_seq_lens = self._tensor(bounds)
        inputs = {"input_ids": np.concatenate([text.ids for text in texts]), "position_ids": positions}
        types = self._types(texts)
        if types is not None:
            inputs["token_type_ids"] = np.concatenate(types)
        return self.model(
            **{name: self._tensor(row.astype(np.int64)).unsqueeze(0) for name, row in inputs.items()},
            cu_seq_lens_q=cu_seq_lens,
            cu_seq_lens_k=cu_seq_lens,
            max_length_q=longest,
            max_length_k=longest,
        ).logits

    def _padded(self, texts: Sequence[TextIds]) -> torch.Tensor:
        return torch.cat([self._padded_group(group) for group in similar_lengths(texts)])

    def _padded_group(self, texts: Sequence[TextIds]) -> torch.Tensor:
        inputs = {
            "input_ids": pad_rows([text.ids for text in texts], value=self.pad_token_id),
            "attention_mask": pad_rows([np.ones_like(text.ids) for text in texts], value=0),
        }
        types = self._types(texts)
        if types is not None:
            inputs["token_type_ids"] = pad_rows(types, value=0)
        return self.model(**{name: self._tensor(rows) for name, rows in inputs.items()}).logits

    def _types(self, texts: Sequence[TextIds]) -> list[IntArray] | None:
        """Token types by text; None where no text has a partner, which is a model's default, type 0, or the model has none."""
        if not self.takes_types or all(text.types is None for text in texts):
            return None
        return [np.zeros_like(text.ids) if text.types is None else text.types for text in texts]

    def _tensor(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def pad_rows(rows: Sequence[IntArray], *, value: int) -> npt.NDArray[np.int64]:
    """(rows, longest), filled up with `value` on the right."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def similar_lengths(texts: Sequence[TextIds]) -> list[Sequence[TextIds]]:
    """Cuts texts sorted by length into groups in which none is much longer than the first."""
    groups: list[Sequence[TextIds]] = []
    start = 0
    for index, text in enumerate(texts):
        if len(text.ids) > PADDED_GROUP_RATIO * len(texts[start].ids) + 1:
            groups.append(texts[start:index])
            start = index
    return [*groups, texts[start:]]


def _load(served: ServedModel, *, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_pretrained(
        served.path, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
    )


def keep_freed_memory() -> None:
    """Makes glibc keep what a forward frees for the next one. Given back to the system, it is cleared page by page when it is
    asked for again, which cost a sixth of a CPU forward. Without glibc, nothing happens."""
    libc = ctypes.CDLL(ctypes.util.find_library("c"))
    if hasattr(libc, "mallopt"):
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(option, KEPT_BYTES)


def _dtype_name(asked: str, device: torch.device) -> str:
    if asked == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return asked


def _choose_attention(model: PreTrainedModel, asked: str, *, packed: bool) -> str:
    """Sets the attention backend where the architecture has attention, and names it."""
    if not getattr(type(model), "_supports_attention_backend", False):
        return "none"
    name = "packed" if packed else ("sdpa" if asked in ("auto", "packed") else asked)
    model.set_attn_implementation(name)
    return name
