"""The HTTP process's connection to one worker.

Jobs of one event-loop tick leave in one frame. A connection that closes means the worker died: everything that waits for it is
answered 503 at once, and the link reconnects when the replacement listens.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from service.edge.http import errors
from service.frames import (
    LOGIT_TYPE,
    Answer,
    Cancel,
    Explain,
    Explained,
    Facts,
    FrameReader,
    Hello,
    Job,
    Keep,
    Load,
    Loaded,
    Message,
    encode,
)

log = logging.getLogger("valence.link")
Learn = Callable[[Mapping[int, Facts]], None]
RECONNECT_S = 0.1


@dataclass(slots=True)
class Reply:
    """What is known of a job: the logits of each text, as the worker's answers bring them. `missing`: texts without an answer."""

    future: asyncio.Future["Reply"]
    missing: int
    rows: list[list[float]]
    queue_s: float = 0.0
    inference_s: float = 0.0
    failed: list[int] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        """Takes the texts that one batch answered."""
        if answer.texts:
            logits = np.frombuffer(answer.logits, dtype=LOGIT_TYPE).reshape(len(answer.texts), -1).tolist()
            for index, row in zip(answer.texts, logits, strict=True):
                self.rows[index] = row
        self.failed += answer.failed
        self.queue_s = max(self.queue_s, answer.queue_s)
        self.inference_s += answer.inference_s
        self.missing -= len(answer.texts) + len(answer.failed)


@dataclass(frozen=True, slots=True)
class Awaited:
    """An explanation that the worker was asked for and has not answered."""

    future: asyncio.Future[Explained]


class Link(asyncio.Protocol):
    """Sends jobs to a worker and settles their futures.

    `places`: what the worker serves, with details; empty until it is ready. `pending`: by the id of a job, what the worker was
    asked and has not answered."""

    def __init__(self, path: Path, *, on_found: Callable[[Hello], None], on_lost: Callable[[Hello], None], learn: Learn) -> None:
        """`learn` is told what a worker found out about its models, at each of its greetings."""
        self.path = path
        self.on_found = on_found
        self.learn = learn
        self.on_lost = on_lost
        self.hello: Hello | None = None
        self.pending: dict[int, Reply | Awaited] = {}
        self.places: Mapping[int, Mapping[str, str]] = {}
        self._kept: list[int] = []
        self._ids = itertools.count()
        self._loads: dict[int, asyncio.Future[None]] = {}
        self._outbox: list[Message] = []
        self._transport: asyncio.WriteTransport | None = None
        self._reader = FrameReader()

    @property
    def ready(self) -> bool:
        """Whether the worker has said hello, which it does once every model has answered a real forward."""
        return self.hello is not None

    async def keep_connected(self) -> None:
        """Runs for the life of the process: connects, and again after each loss."""
        loop = asyncio.get_running_loop()
        while True:
            if self._transport is None:
                with contextlib.suppress(OSError):  # the worker does not listen yet
                    await loop.create_unix_connection(lambda: self, str(self.path))
            await asyncio.sleep(RECONNECT_S)

    def ask(self, asked: Job | Explain) -> asyncio.Future[Any]:
        """Gives the question an id of its own and sends it.

        The future's result is a `Reply` to a `Job`, and an `Explained` to an `Explain`; ServiceError 503 if the worker dies."""
        future = asyncio.get_running_loop().create_future()
        asked.id = next(self._ids)
        if isinstance(asked, Job):
            texts = len(asked.lengths)
            self.pending[asked.id] = Reply(future, missing=texts, rows=[[]] * texts)
        else:
            self.pending[asked.id] = Awaited(future)
        self._post(asked)
        return future

    def forget(self, job_id: int) -> None:
        """Gives up a job that nobody waits for any more: the worker need not compute it."""
        if self.pending.pop(job_id, None) is not None and self._transport is not None:
            self._post(Cancel(id=job_id))

    def announce(self, places: list[int]) -> None:
        """Tells the worker which models this process sends texts to; it may drop the others."""
        self._kept = places
        if self._transport is not None:
            self._post(Keep(places))

    def load(self, message: Load) -> asyncio.Future[None]:
        """Has the worker load a model. ServiceError 422 says why it can't; 503 if the worker is not there or dies meanwhile."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._transport is None:
            future.set_exception(errors.unhealthy("a worker is not ready; retry"))
        else:
            self._loads[message.place] = future
            self._post(message)
        return future

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's transport is not a subclass of it
        self._reader = FrameReader()
        self._transport.write(encode([Keep(self._kept)]))

    def data_received(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            if isinstance(message, Answer):
                self._add(message)
            elif isinstance(message, Explained):
                awaited = self.pending.pop(message.id, None)
                if isinstance(awaited, Awaited) and not awaited.future.done():
                    awaited.future.set_result(message)
            elif isinstance(message, Hello):
                first, self.hello, self.places = self.hello is None, message, message.details
                self.learn(message.facts)
                if first:
                    self.on_found(message)
            elif isinstance(message, Loaded):
                self._finish_load(message)

    def connection_lost(self, exc: Exception | None) -> None:
        lost, self.hello, self.places, self._transport = self.hello, None, {}, None
        self._outbox.clear()
        loads, self._loads = self._loads, {}
        for load in loads.values():
            if not load.done():
                load.set_exception(errors.unhealthy("a worker died while it loaded the model; nothing was changed"))
        waiting, self.pending = self.pending, {}
        if waiting:
            log.warning("a worker was lost; %d requests are answered 503", len(waiting))
        for reply in waiting.values():
            if not reply.future.done():
                reply.future.set_exception(errors.unhealthy("the worker that held this request died; retry"))
        if lost is not None:
            self.on_lost(lost)

    def _add(self, answer: Answer) -> None:
        reply = self.pending.get(answer.id)
        if isinstance(reply, Reply):
            reply.add(answer)
            if reply.missing == 0:
                del self.pending[answer.id]
                if not reply.future.done():
                    reply.future.set_result(reply)

    def _finish_load(self, message: Loaded) -> None:
        future = self._loads.pop(message.place, None)
        if future is None or future.done():
            return
        if message.failure:
            future.set_exception(errors.validation(message.failure))
        else:
            future.set_result(None)

    def _post(self, message: Message) -> None:
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(message)

    def _flush(self) -> None:
        messages, self._outbox = self._outbox, []
        if messages and self._transport is not None:
            self._transport.write(encode(messages))
