"""One loaded model on one device: token ids in, logits out.

How its texts are batched is found by proof: the cheapest way that gives the plain model's logits for each text. Texts are packed,
with no padding; or padded, in groups of similar length; or in groups of equal length; or one by one. The engine never asks which
architecture it holds.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from models.attention import enable_packing
from models.cpu.library import torchs_layers
from models.cpu.linear import has_prepacked, prepack_linears
from models.cpu.lstm import replace_lstms
from models.int8 import RangesError, prepare_for_inference, quantize
from service.engine.compiling import CompiledForward
from service.engine.faults import is_out_of_memory
from service.engine.graphs import GraphedForward
from service.engine.kept import KeptProofs, Proven, Way
from service.engine.packs import FloatArray, Pack, TextIds, pack, pad_rows, token_types
from service.engine.proof import Proof, Takes, first_line, logits_of
from service.engine.trials import TrialTexts
from service.engine.weights import keep_freed_memory, load_model, own_weights
from service.served.catalog import CatalogError, ServedModel, load_tokenizer
from service.settings import Settings

log = logging.getLogger("valence.worker")
# With int8 all but the linear layers stay in float32.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.float32}
# The types that torch's variable-length attention takes. In float32 the packed backend reads lengths on the host, which a graph
# can't do.
HALF_TYPES = (torch.float16, torch.bfloat16)
# A padded group ends before a text that is longer than this times the group's first text, so padding stays under a fifth.
PADDED_GROUP_RATIO = 1.25
# oneDNN compiles an operator for each number of rows that it meets, which takes 0.25 ms, and keeps a few hundred operators.
# Batches come in more sizes than that, so an operator would often be gone when its size came again. Therefore packs are filled up
# to a multiple of `PREPACKED_ROWS` tokens, and larger packs to one of 8 sizes between two powers of two. Compared to packs that
# are not filled up, 64 connections got 6% more answers in bfloat16 and as many in float32. The worker's memory grew only a third
# as much, since blocks of the same sizes are used again.
PREPACKED_ROWS, SIZES_A_DOUBLING = 16, 8
BATCHINGS = ("packed", "padded", "equal lengths", "one by one")
# A token that no text holds.
NO_TOKEN = -1


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
    """A model that scores batches of texts of any lengths. `details` says what it runs on, for `/info`. `max_length`: tokens of
    the longest text that it takes; `labels`: a name for each logit; `trials`: a few short texts of its own language."""

    def __init__(self, served: ServedModel, *, device: str, settings: Settings) -> None:
        """CatalogError where the model can't be loaded, or no way of serving gives the plain model's logits."""
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        else:
            torch.cuda.set_device(self.device)  # for this thread: streams, events and Triton use the current device
        self.served, self.settings = served, settings
        self.overlaps = self.device.type == "cuda"
        self.dtype_name = _dtype_name(settings.dtype, self.device)
        self.explained: PreTrainedModel | None = None  # `make_explainable` sets it, where the service explains
        tokenizer = load_tokenizer(served.tokenizer_path)
        self.pads_left = tokenizer.padding_side == "left"
        kept = KeptProofs(settings, served, device=device)
        proven = kept.read()
        plain = self._load(torch.float32 if proven is None else DTYPES[self.dtype_name])
        self.takes = Takes(plain, tokenizer)
        self.padding_id: int | None = tokenizer.pad_token_id
        if self.padding_id is None:
            self.padding_id = getattr(plain.config, "pad_token_id", None)
        if proven is None:
            proof = Proof(served, plain, tokenizer)
            self.trials = TrialTexts(tokenizer).some(proof.max_length)
            proven = self._prove(plain, proof)
            kept.write(proven)
        else:
            self.trials = TrialTexts(tokenizer).some(proven.max_length)
            self._build(plain, proven.way)
            self.warm_up()
        self.max_length, self.labels = proven.max_length, proven.labels
        self.details |= {"difference": proven.difference, "ways_refused": "; ".join(proven.refused) or "none"}

    # -- how it is served ---------------------------------------------------------------------------------------------------

    def _prove(self, plain: PreTrainedModel, proof: Proof) -> Proven:
        """The first way that gives the plain model's logits. `plain` is used up."""
        if DTYPES[self.dtype_name] in HALF_TYPES:
            plain = self._load(DTYPES[self.dtype_name]).to(self.device)
            proof.measure_own_error(plain, self.device)
        refused: list[str] = []
        rounding = ""
        for way in _ways(self.settings):
            try:
                self._build(plain, way)
                if self.dtype_name == "int8" and not rounding:
                    rounding = f", after rounding to 8 bits changed one by {proof.hold_to(self.logits):.1e}"
                worst, tolerance = proof.difference(self.logits), proof.tolerance
            except Unfit:
                continue  # the model is as it was
            except (CatalogError, RangesError):
                raise
            except Exception as error:  # whatever a class of somebody else's raises; another way may do
                if is_out_of_memory(error):
                    raise
                refused.append(f"{way}: {type(error).__name__}: {first_line(error)}")
            else:
                if worst <= tolerance:
                    proven = Proven(
                        way, proof.max_length, proof.labels, f"{worst:.1e} of {tolerance:.1e}{rounding}", tuple(refused)
                    )
                    break
                refused.append(f"{way}: a logit is off by {worst:.2g}, and {tolerance:.2g} is allowed")
            plain = self._load(DTYPES[self.dtype_name])
        else:
            raise CatalogError(f"{self.served.path}: no way of serving gives the scores of the plain model: {'; '.join(refused)}")
        for reason in refused:
            log.warning("%s is not served %s", self.served.name, reason)
        return proven

    def _load(self, dtype: torch.dtype) -> PreTrainedModel:
        return load_model(self.served, dtype=dtype, trust_remote_code=self.settings.trust_remote_code).eval()

    def _build(self, model: PreTrainedModel, way: Way) -> None:
        """Makes the model ready to be served in that way. Unfit where it can't be, and then it is as it was."""
        with nullcontext() if way.own_layers else torchs_layers():
            self._build_layers(model, way)

    def _build_layers(self, model: PreTrainedModel, way: Way) -> None:
        asked, device = self.settings.attn_implementation, self.device
        self.way = way
        self.packed = way.batching == "packed"
        if way.batching == "padded" and self.padding_id is None:
            raise Unfit
        if way.all_types and not self.takes.types:
            raise Unfit
        if way.no_padding_id and getattr(model.config, "pad_token_id", None) is not None:
            raise Unfit
        if self.packed and not (getattr(type(model), "_supports_packed", False) or enable_packing(model)):
            raise Unfit
        if way.no_padding_id:
            model.config.pad_token_id = NO_TOKEN
        elif way.batching == "padded" and getattr(model.config, "pad_token_id", None) is None:
            model.config.pad_token_id = self.padding_id  # some classes look for the last token that is none
        attention = _choose_attention(model, asked, packed=self.packed)
        if device.type == "cpu":
            own_weights(model)
        prepare_for_inference(model)
        if self.dtype_name == "int8" and not quantize(model, self.served.path):
            self.dtype_name = "float32"
        self.model = model.to(device)
        replace_lstms(self.model)
        wants_compiled = self.settings.compile and self.packed and way.own_layers
        self.compiled = self._compile(self.settings) if wants_compiled else None
        if self.compiled is None:  # which brings the weights into an order of its own
            prepack_linears(self.model)
        self.fills_up = has_prepacked(self.model)
        self.graphs: GraphedForward | None = None
        if self.overlaps and attention == "packed" and self.settings.cuda_graphs and model.dtype in HALF_TYPES and way.own_layers:
            self.graphs = self._capture(max_tokens=self.settings.batch_tokens(device.type), max_length=self.served.max_length)
        self.details = {
            "device": str(device) if device.type == "cuda" else "cpu",
            "dtype": self.dtype_name,
            "attention": attention,
            "batching": way.batching,
            "compiled": "no" if self.compiled is None else "yes",
            "cuda_graphs": "none" if self.graphs is None else f"{len(self.graphs.graphs)} sizes",
            "class": type(model).__name__,
        }

    # -- a batch ------------------------------------------------------------------------------------------------------------

    def logits(self, texts: Sequence[TextIds]) -> FloatArray:
        """Logits (texts, labels) float32, in the order given. Raises what the model raises."""
        return self.launch(texts).wait()

    @torch.inference_mode()
    def launch(self, texts: Sequence[TextIds]) -> Launched:
        """Starts a batch. On CUDA this returns before the device is done, so that the next batch can be made ready meanwhile."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index].ids))
        ordered = [texts[index] for index in order]
        padding = self.padding(ordered)
        with nullcontext() if self.way.own_layers else torchs_layers():
            rows = self._packed(ordered, padding if self.fills_up else 0) if self.packed else self._padded(ordered)
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
            if self.graphs is not None:
                return self.graphs.padding(tokens, texts=len(texts))
            return filled_up(tokens) - tokens if self.fills_up else 0
        ordered = sorted(texts, key=lambda text: len(text.ids))
        return sum(len(group[-1].ids) - len(text.ids) for group in self._groups(ordered) for text in group)

    def warm_up(self) -> None:
        """A real forward of short and long texts; the worker reports ready only after it."""
        for texts in self._trial_batches():
            if not np.isfinite(self.logits(texts)).all():
                raise ValueError(f"{self.details['class']}: the first forward gave a score that is not a number")

    def _packed(self, texts: Sequence[TextIds], padding: int) -> torch.Tensor:
        batch = self._pack([*texts, *self._fillers(texts, padding)])
        rows = self.graphs(batch) if self.graphs is not None else None
        return (self._forward(batch) if rows is None else rows)[: len(texts)]

    def _pack(self, texts: Sequence[TextIds]) -> Pack:
        return pack(texts, with_types=self.takes.types, all_types=self.way.all_types)

    def _fillers(self, texts: Sequence[TextIds], padding: int) -> list[TextIds]:
        """Texts of padding tokens that fill the pack up. None is longer than the last of `texts`, which is the longest."""
        if not padding:
            return []
        longest = len(texts[-1].ids)
        lengths = [longest] * (padding // longest) + ([padding % longest] if padding % longest else [])
        return [TextIds(np.full(length, self.padding_id or 0, dtype=np.int32)) for length in lengths]

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
        return torch.cat([self._padded_group(group) for group in self._groups(texts)])

    def _groups(self, texts: Sequence[TextIds]) -> list[Sequence[TextIds]]:
        """What of texts sorted by length is computed together."""
        if self.way.batching == "one by one":
            return [[text] for text in texts]
        return similar_lengths(texts, ratio=PADDED_GROUP_RATIO if self.way.batching == "padded" else None)

    def _padded_group(self, texts: Sequence[TextIds]) -> torch.Tensor:
        rows = partial(pad_rows, left=self.pads_left)
        inputs = {"input_ids": rows([text.ids for text in texts], value=self.padding_id or 0)}
        if self.takes.mask:
            inputs["attention_mask"] = rows([np.ones_like(text.ids) for text in texts], value=0)
        types = token_types(texts, always=self.way.all_types) if self.takes.types else None
        if types is not None:
            inputs["token_type_ids"] = rows(types, value=0)
        return logits_of(self.model(**{name: self._tensor(row) for name, row in inputs.items()}))

    @torch.inference_mode()
    def _compile(self, settings: Settings) -> CompiledForward | None:
        """None, with the reason in the log, where the model can't be compiled or scores otherwise."""
        compiled = CompiledForward(self.model, self._plain_forward, takes_types=self.takes.types)
        threads = {settings.lone_thread_count(), settings.thread_count()} if self.device.type == "cpu" else ()
        try:
            compiled.check([self._pack(texts) for texts in self._trial_batches()], threads=threads or (1,))
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
                takes_types=self.takes.types,
                device=self.device,
            )
            graphs.check(
                partial(self._plain_forward, self.model),
                [self._pack(texts) for texts in self._trial_batches()],
            )
        except (RuntimeError, ValueError) as error:
            log.warning("no CUDA graphs: %s", error)
            return None
        return graphs

    def _trial_batches(self) -> list[list[TextIds]]:
        """A short text, and a batch of short and long ones."""
        return [self.trials[:1], self.trials]

    def _tensor(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


class Unfit(Exception):
    """A model can't be served in that way, and was not changed."""


def _ways(settings: Settings) -> Iterator[Way]:
    """The cheapest first."""
    for batching in BATCHINGS:
        if batching != "packed" or settings.attn_implementation in ("auto", "packed"):
            yield Way(batching)
            yield Way(batching, all_types=True)
            if batching in ("equal lengths", "one by one"):
                yield Way(batching, no_padding_id=True)
            yield Way(batching, own_layers=False)


def filled_up(tokens: int) -> int:
    """The size that a pack of so many tokens is filled up to.

    >>> [filled_up(tokens) for tokens in (1, 16, 17, 250, 257, 600, 1900, 2048)]
    [16, 16, 32, 256, 288, 640, 1920, 2048]
    """
    power = 1 << (tokens - 1).bit_length() - 1 if tokens > 1 else 1
    step = max(PREPACKED_ROWS, power // SIZES_A_DOUBLING)
    return -(-tokens // step) * step


def similar_lengths(texts: Sequence[TextIds], *, ratio: float | None = PADDED_GROUP_RATIO) -> list[Sequence[TextIds]]:
    """Cuts texts sorted by length into groups in which none is much longer than the first; None: in which all are equal."""
    groups: list[Sequence[TextIds]] = []
    start = 0
    for index, text in enumerate(texts):
        first = len(texts[start].ids)
        if len(text.ids) > (first if ratio is None else ratio * first + 1):
            groups.append(texts[start:index])
            start = index
    return [*groups, texts[start:]]


def _dtype_name(asked: str, device: torch.device) -> str:
    if asked == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return asked


def _choose_attention(model: PreTrainedModel, asked: str, *, packed: bool) -> str:
    """Sets the attention backend where the architecture has attention, and names it. Unless one is asked for, a batch that is not
    packed keeps what the class chose for itself: not every class knows each."""
    if not getattr(type(model), "_supports_attention_backend", False):
        return "none"
    if packed or asked in ("sdpa", "eager"):
        name = "packed" if packed else asked
        model.set_attn_implementation(name)
        return name
    return str(model.config._attn_implementation)
