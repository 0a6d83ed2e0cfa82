"""The HTTP process's connection to one worker.

Jobs of one event-loop tick leave in one frame. A connection that closes means the worker died: everything that waits for it is
answered 503 at once, and the link reconnects when the replacement listens.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from service.edge import errors
from service.edge.text.encoder import Tokens
from service.frames import (
    LOGIT_TYPE,
    Answer,
    Cancel,
    Explain,
    Explained,
    FrameReader,
    Hello,
    Job,
    Load,
    Loaded,
    Message,
    Serving,
    encode,
)

log = logging.getLogger("valence.link")
RECONNECT_S = 0.1


@dataclass(slots=True)
class Reply:
    """What is known of a request: filled by the worker's answers, done when every text has one."""

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
        if self.missing == 0 and not self.future.done():
            self.future.set_result(self)


@dataclass(frozen=True, slots=True)
class Awaited:
    """An explanation that was asked for: done when the worker has answered."""

    future: asyncio.Future[Explained]


class Link(asyncio.Protocol):
    """Sends jobs to a worker and settles their futures."""

    def __init__(self, path: Path, *, on_found: Callable[[Hello], None], on_lost: Callable[[Hello], None]) -> None:
        self.path = path
        self.on_found = on_found
        self.on_lost = on_lost
        self.hello: Hello | None = None
        self.pending: dict[int, Reply | Awaited] = {}
        self.serving: list[int] = []
        self._ids = itertools.count()
        self._loads: dict[int, asyncio.Future[None]] = {}
        self._outbox: list[Message] = []
        self._transport: asyncio.WriteTransport | None = None
        self._reader = FrameReader()

    @property
    def ready(self) -> bool:
        """The worker has said hello, which it does once every model has answered a real forward."""
        return self.hello is not None

    def has(self, place: int) -> bool:
        """The worker is ready and serves that model."""
        return self.hello is not None and place in self.hello.details

    async def keep_connected(self) -> None:
        """Runs for the life of the process: connects, and again after each loss."""
        loop = asyncio.get_running_loop()
        while True:
            if self._transport is None:
                with contextlib.suppress(OSError):  # the worker does not listen yet
                    await loop.create_unix_connection(lambda: self, str(self.path))
            await asyncio.sleep(RECONNECT_S)

    def submit(self, tokens: Tokens, *, model: int, deadline: float) -> tuple[int, asyncio.Future[Reply]]:
        """Queues the texts of one request. The future's reply holds logits by text; ServiceError 503 if the worker dies."""
        loop = asyncio.get_running_loop()
        job = Job(
            id=next(self._ids),
            model=model,
            deadline=deadline,
            sent_at=time.monotonic(),
            lengths=tokens.lengths,
            token_ids=tokens.ids,
            token_types=tokens.types,
        )
        future: asyncio.Future[Reply] = loop.create_future()
        texts = len(tokens.lengths)
        self.pending[job.id] = Reply(future, missing=texts, rows=[[]] * texts)
        self._post(job)
        return job.id, future

    def explain(
        self, ids: bytes, baseline_ids: bytes, *, model: int, target: int | None, deadline: float
    ) -> tuple[int, asyncio.Future[Explained]]:
        """Asks what each token gave to a label's logit; ServiceError 503 if the worker dies."""
        job = Explain(next(self._ids), model, deadline, time.monotonic(), ids, baseline_ids, target)
        future: asyncio.Future[Explained] = asyncio.get_running_loop().create_future()
        self.pending[job.id] = Awaited(future)
        self._post(job)
        return job.id, future

    def forget(self, job_id: int) -> None:
        """Nobody waits for the job any more: the worker need not compute it."""
        if self.pending.pop(job_id, None) is not None and self._transport is not None:
            self._post(Cancel(id=job_id))

    def settle(self, job_id: int) -> None:
        """The job is answered."""
        self.pending.pop(job_id, None)

    def announce(self, places: list[int]) -> None:
        """Tells the worker which models this process sends texts to; it may drop the others."""
        self.serving = places
        if self._transport is not None:
            self._post(Serving(places))

    def load(self, message: Load) -> asyncio.Future[None]:
        """Has the worker load a model. ServiceError 422 says why it can't, 503 if it is not there or dies of it."""
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
        self._transport.write(encode([Serving(self.serving)]))

    def data_received(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            if isinstance(message, Answer):
                reply = self.pending.get(message.id)
                if isinstance(reply, Reply):
                    reply.add(message)
            elif isinstance(message, Explained):
                awaited = self.pending.get(message.id)
                if isinstance(awaited, Awaited) and not awaited.future.done():
                    awaited.future.set_result(message)
            elif isinstance(message, Hello):
                first, self.hello = self.hello is None, message
                if first:
                    self.on_found(message)
            elif isinstance(message, Loaded):
                self._finish_load(message)

    def connection_lost(self, exc: Exception | None) -> None:
        lost, self.hello, self._transport = self.hello, None, None
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
