"""The models of a worker: loaded while it computes, kept as long as an HTTP process sends texts to them, then dropped.

A model is loaded in a thread, while the batch loop goes on. docs/changing-models.md says what a load costs meanwhile.
"""

import asyncio
import ctypes
import gc
import logging
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from service.engine.engine import Engine
from service.frames import Load, Loaded
from service.served.catalog import ServedModel, weights_digest
from service.served.roster import MODEL, RosterFile
from service.settings import Settings
from service.worker.explaining import make_explainable
from service.worker.queue import TextQueue

if TYPE_CHECKING:
    from service.worker.meter import BatchMeter

log = logging.getLogger("valence.worker")
# By default Python lets a thread hold its lock for 5 ms before another gets it. A forward asks for the lock at each operator.
SWITCH_S = 0.0001
Dropped = weakref.ref[PreTrainedModel]


def load_engine(model: ServedModel, *, device: str, settings: Settings) -> Engine:
    """Loads a model and lets it answer a real forward. Raises what either raises."""
    started_at = time.monotonic()
    engine = Engine(model, device=device, settings=settings)
    if settings.explain_steps:
        make_explainable(engine, model, settings)
    log.info("loaded %s in %.1f s", model.name, time.monotonic() - started_at, extra=engine.details)
    return engine


class LoadedModels:
    """The loaded models: `engines` by place, which the batch loop reads. Only the I/O thread calls the methods."""

    def __init__(
        self,
        engines: dict[int, Engine],
        *,
        queue: TextQueue,
        meter: "BatchMeter",
        device: str,
        settings: Settings,
        roster: RosterFile,
    ) -> None:
        self.engines = engines
        self.queue = queue
        self.meter = meter
        self.device = device
        self.settings = settings
        self.roster = roster
        self._needed: dict[int, frozenset[int]] = {}

    async def load(self, message: Load) -> Loaded:
        """Loads a model. From then on the batch loop may use it."""
        model = MODEL.validate_json(message.model)
        try:
            engine = await asyncio.to_thread(self._load, model)
        except Exception as error:  # a checkpoint may raise anything; the served models go on
            log.warning("%s was not loaded: %s", model.name, error)
            failure = reason(error, model)
        else:
            self.meter.add(message.place, model.name)
            self.engines[message.place] = engine
            return Loaded(message.place)
        await asyncio.to_thread(give_back_memory)  # here, where nothing holds the failed model any more
        return Loaded(message.place, failure)

    def needs(self, connection: int, places: list[int]) -> None:
        """Notes the places that an HTTP process sends texts to from now on."""
        self._needed[connection] = frozenset(places)

    def left(self, connection: int) -> None:
        """Notes that an HTTP process has gone."""
        self._needed.pop(connection, None)

    def drop_unneeded(self) -> list[Dropped]:
        """Drops the models that no HTTP process needs and the roster does not hold. `give_back_memory` is to follow.

        Texts that still wait for such a model are dropped too: the process that sent them is gone."""
        if not self._needed:  # all HTTP processes are gone, or none has come yet
            return []
        places = self.engines.keys() - frozenset[int]().union(*self._needed.values())
        if places:
            places -= self.roster.read().models.keys()
        dropped = []
        for place in places:
            dropped.append(weakref.ref(self.engines.pop(place).model))
            self.queue.discard(place)
            self.meter.remove(place)
            log.info("dropped the model of place %d", place)
        return dropped

    def _load(self, model: ServedModel) -> Engine:
        if self.device == "cpu":
            torch.set_num_threads(1)  # of this thread: the forwards keep theirs
        with eager_switches():
            engine = load_engine(model, device=self.device, settings=self.settings)
        if weights_digest(*model.folders) != model.weights:
            raise ValueError("its weights changed while they were loaded")
        return engine


@contextmanager
def eager_switches() -> Iterator[None]:
    """Makes threads take turns more often, so that a busy thread does not hold a forward up at each operator."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def reason(error: Exception, model: ServedModel) -> str:
    """Why a model was not loaded, in one sentence for the client that asked."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        text = "not enough memory to load and run it beside the models that are served"
    return text if str(model.path) in text else f"{model.path}: {text}"


def give_back_memory(dropped: Sequence[Dropped] = ()) -> None:
    """Gives the memory of dropped models back to the system, which `keep_freed_memory` would keep for the next forward."""
    if any(model() is not None for model in dropped):
        gc.collect()  # for an architecture with a circle of references; it stops every thread for up to 0.4 s
    trim()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def trim() -> None:
    """Gives what was freed on the host back to the system. Without glibc nothing happens.

    Forwards of ever other sizes leave gaps between what stays: after 4,000 batches of a BERT and an LSTM a quarter of it."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
