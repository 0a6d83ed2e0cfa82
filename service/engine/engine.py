"""One loaded model on one device: token ids in, logits out.

Texts are packed, without padding, for a class that declares `_supports_packed` and for an encoder that is found to take packs
through transformers' attention interface. For any other model they are padded, in groups of similar length. The engine never
asks which architecture it holds.
"""

import inspect
import logging
from collections.abc import Sequence
from functools import partial

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from models.attention import enable_packing
from models.cpu.linear import has_prepacked, prepack_linears
from models.cpu.lstm import replace_lstms
from models.int8 import prepare_for_inference, quantize
from service.engine.compiling import CompiledForward
from service.engine.graphs import GraphedForward
from service.engine.packs import Pack, TextIds, pack, pad_rows, token_types
from service.engine.weights import keep_freed_memory, load_model, own_weights
from service.served.catalog import ServedModel
from service.settings import Settings

log = logging.getLogger("valence.worker")
FloatArray = npt.NDArray[np.float32]
# With int8 all but the linear layers stay in float32.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.float32}
# The types that torch's variable-length attention takes. In float32 the packed backend reads lengths on the host, which a graph
# can't do.
HALF_TYPES = (torch.float16, torch.bfloat16)
TRIAL_LENGTHS = ((8,), (4, 4, 16, 32))
# A padded group ends before a text that is longer than this times the group's first text, so padding stays under a fifth.
PADDED_GROUP_RATIO = 1.25
# oneDNN compiles an operator for each number of rows that it meets, which takes 0.25 ms, and keeps a few hundred operators.
# Batches come in more sizes than that, so an operator would often be gone when its size came again. Therefore packs are filled up
# to a multiple of `PREPACKED_ROWS` tokens, and larger packs to one of 8 sizes between two powers of two. Compared to packs that
# are not filled up, 64 connections got 6% more answers in bfloat16 and as many in float32. The worker's memory grew only a third
# as much, since blocks of the same sizes are used again.
PREPACKED_ROWS, SIZES_A_DOUBLING = 16, 8


class Launched(msgspec.Struct, gc=False):
    """A batch on its way through the device. `order`: the place in the batch of each row's text. `padding`: padding tokens."""

    rows: torch.Tensor
    order: list[int]
    padding: int
    done: torch.cuda.Event | None = None

    def wait(self) -> FloatArray:
        """Logits (texts, labels) float32, in the order given to `launch`."""
        if self.done is not None:
            self.done.synchronize()
        logits = self.rows.float().numpy()
        result = np.empty_like(logits)
        result[self.order] = logits
        return result


class Engine:
    """A model that scores batches of texts of any lengths. `details` says what it runs on, for `/info`."""

    def __init__(self, served: ServedModel, *, device: str, settings: Settings) -> None:
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        else:
            torch.cuda.set_device(self.device)  # for this thread: streams, events and Triton use the current device
        self.dtype_name = _dtype_name(settings.dtype, self.device)
        model = load_model(served, dtype=DTYPES[self.dtype_name], trust_remote_code=settings.trust_remote_code)
        self.packed = settings.attn_implementation in ("auto", "packed") and (
            getattr(type(model), "_supports_packed", False) or enable_packing(model)
        )
        attention = _choose_attention(model, settings.attn_implementation, packed=self.packed)
        if self.device.type == "cpu":
            own_weights(model)
        prepare_for_inference(model)
        if self.dtype_name == "int8" and not quantize(model, served.path):
            self.dtype_name = "float32"
        self.model = model.eval().to(self.device)
        self.explained: PreTrainedModel | None = None  # `make_explainable` sets it, where the service explains
        self.takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        self.pad_token_id = model.config.pad_token_id or 0
        self.overlaps = self.device.type == "cuda"
        replace_lstms(self.model)
        self.compiled = self._compile(settings) if settings.compile and self.packed else None
        if self.compiled is None:  # the compiler orders the weights itself
            prepack_linears(self.model)
        self.fills_up = has_prepacked(self.model)
        self.graphs: GraphedForward | None = None
        if self.overlaps and attention == "packed" and settings.cuda_graphs and model.dtype in HALF_TYPES:
            self.graphs = self._capture(max_tokens=settings.batch_tokens(device), max_length=served.max_length)
        self.details = {
            "device": device,
            "dtype": self.dtype_name,
            "attention": attention,
            "batching": "packed" if self.packed else "padded",
            "compiled": "no" if self.compiled is None else "yes",
            "cuda_graphs": "none" if self.graphs is None else f"{len(self.graphs.graphs)} sizes",
            "class": type(model).__name__,
        }

    def logits(self, texts: Sequence[TextIds]) -> FloatArray:
        """Logits (texts, labels) float32, in the order given. Raises what the model raises."""
        return self.launch(texts).wait()

    @torch.inference_mode()
    def launch(self, texts: Sequence[TextIds]) -> Launched:
        """Starts a batch. On CUDA this returns before the device is done, so that the next batch can be made ready meanwhile."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index].ids))
        ordered = [texts[index] for index in order]
        padding = self.padding(ordered)
        rows = self._packed(ordered, padding) if self.packed else self._padded(ordered)
        if not self.overlaps:
            return Launched(rows, order, padding)
        host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True).copy_(rows, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return Launched(host, order, padding, done)

    def padding(self, texts: Sequence[TextIds]) -> int:
        """How many padding tokens are computed when `texts` are scored."""
        if self.packed:
            tokens = sum(len(text.ids) for text in texts)
            return filled_up(tokens) - tokens if self.fills_up else 0
        ordered = sorted(texts, key=lambda text: len(text.ids))
        return sum(len(group[-1].ids) - len(text.ids) for group in similar_lengths(ordered) for text in group)

    def warm_up(self) -> None:
        """A real forward of short and long texts; the worker reports ready only after it."""
        for texts in self._trial_batches():
            if not np.isfinite(self.logits(texts)).all():
                raise ValueError(f"{self.details['class']}: the first forward gave a score that is not a number")

    def _packed(self, texts: Sequence[TextIds], padding: int) -> torch.Tensor:
        batch = pack([*texts, *self._fillers(texts, padding)], with_types=self.takes_types)
        rows = self.graphs(batch) if self.graphs is not None else None
        return (self._forward(batch) if rows is None else rows)[: len(texts)]

    def _fillers(self, texts: Sequence[TextIds], padding: int) -> list[TextIds]:
        """Texts of padding tokens that fill the pack up. None is longer than the last of `texts`, which is the longest."""
        if not padding:
            return []
        longest = len(texts[-1].ids)
        lengths = [longest] * (padding // longest) + ([padding % longest] if padding % longest else [])
        return [TextIds(np.full(length, self.pad_token_id, dtype=np.int32)) for length in lengths]

    def _forward(self, batch: Pack) -> torch.Tensor:
        return self._plain_forward(self.model, batch) if self.compiled is None else self.compiled(batch)

    def _plain_forward(self, model: nn.Module, batch: Pack) -> torch.Tensor:
        inputs = {"input_ids": batch.ids, "position_ids": batch.positions}
        if batch.types is not None:
            inputs["token_type_ids"] = batch.types
        bounds = self._tensor(batch.bounds)
        return model(
            **{name: self._tensor(row).unsqueeze(0) for name, row in inputs.items()},
            cu_seq_lens_q=bounds,
            cu_seq_lens_k=bounds,
            max_length_q=batch.longest,
            max_length_k=batch.longest,
        ).logits

    def _padded(self, texts: Sequence[TextIds]) -> torch.Tensor:
        return torch.cat([self._padded_group(group) for group in similar_lengths(texts)])

    def _padded_group(self, texts: Sequence[TextIds]) -> torch.Tensor:
        inputs = {
            "input_ids": pad_rows([text.ids for text in texts], value=self.pad_token_id),
            "attention_mask": pad_rows([np.ones_like(text.ids) for text in texts], value=0),
        }
        types = token_types(texts) if self.takes_types else None
        if types is not None:
            inputs["token_type_ids"] = pad_rows(types, value=0)
        return self.model(**{name: self._tensor(rows) for name, rows in inputs.items()}).logits

    @torch.inference_mode()
    def _compile(self, settings: Settings) -> CompiledForward | None:
        """The compiled forward. None, with the reason in the log, if the model can't be compiled or then scores differently."""
        compiled = CompiledForward(self.model, self._plain_forward, takes_types=self.takes_types)
        threads = {settings.lone_thread_count(), settings.thread_count()} if self.device.type == "cpu" else ()
        try:
            compiled.check([pack(texts, with_types=self.takes_types) for texts in self._trial_batches()], threads=threads or (1,))
        except (RuntimeError, ValueError) as error:
            log.warning("not compiled: %s", (str(error).strip().splitlines() or [type(error).__name__])[0])
            return None
        return compiled

    @torch.inference_mode()
    def _capture(self, *, max_tokens: int, max_length: int) -> GraphedForward | None:
        """The CUDA graphs. None, with the reason in the log, if the model can't be captured or replays score differently."""
        try:
            graphs = GraphedForward(
                self.model if self.compiled is None else self.compiled.module,
                max_tokens=max_tokens,
                max_length=max_length,
                takes_types=self.takes_types,
                device=self.device,
            )
            graphs.check(
                partial(self._plain_forward, self.model),
                [pack(texts, with_types=self.takes_types) for texts in self._trial_batches()],
            )
        except (RuntimeError, ValueError) as error:
            log.warning("no CUDA graphs: %s", error)
            return None
        return graphs

    def _trial_batches(self) -> list[list[TextIds]]:
        """A short text alone, and a batch of short and long texts, each of one valid token repeated."""
        return [
            [TextIds(np.full(length, self.pad_token_id + 1, dtype=np.int32)) for length in lengths] for lengths in TRIAL_LENGTHS
        ]

    def _tensor(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def filled_up(tokens: int) -> int:
    """The size that a pack of so many tokens is filled up to.

    >>> [filled_up(tokens) for tokens in (1, 16, 17, 250, 257, 600, 1900, 2048)]
    [16, 16, 32, 256, 288, 640, 1920, 2048]
    """
    power = 1 << (tokens - 1).bit_length() - 1 if tokens > 1 else 1
    step = max(PREPACKED_ROWS, power // SIZES_A_DOUBLING)
    return -(-tokens // step) * step


def similar_lengths(texts: Sequence[TextIds]) -> list[Sequence[TextIds]]:
    """Cuts texts sorted by length into groups in which none is much longer than the first."""
    groups: list[Sequence[TextIds]] = []
    start = 0
    for index, text in enumerate(texts):
        if len(text.ids) > PADDED_GROUP_RATIO * len(texts[start].ids) + 1:
            groups.append(texts[start:index])
            start = index
    return [*groups, texts[start:]]


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
