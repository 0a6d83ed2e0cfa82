"""The I/O thread of a worker: its connections to the HTTP processes."""

import asyncio
import os
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from uvloop import new_event_loop

from service.frames import Cancel, Explain, Facts, FrameReader, Hello, Job, Keep, Load, Message, encode
from service.worker.explaining import Explanations
from service.worker.models import LoadedModels, give_back_memory, trim
from service.worker.queue import TextQueue

if TYPE_CHECKING:
    from service.worker.meter import BatchMeter

# The queue's depth is observed by a clock, and not at each of its changes: jobs, batches and cancellations.
OBSERVE_QUEUE_S = 1.0
# The observations of a batch are written for scrapes after so long.
WRITE_METRICS_S = 0.05
# After so long without a batch the memory that forwards freed is given back. It took 20 ms for 250 MB.
QUIET_S = 10.0


class Connections:
    """The I/O thread: accepts the HTTP processes, queues what they send, sends what the batch loop hands over."""

    def __init__(
        self,
        queue: TextQueue,
        *,
        explanations: Explanations | None,
        models: LoadedModels,
        device: str,
        meter: "BatchMeter",
    ) -> None:
        self.queue = queue
        self.explanations = explanations
        self.models = models
        self.device = device
        self._meter = meter
        self._is_write_due = False
        self._answered_at: float | None = None  # None: all memory was given back since
        self.open: dict[int, asyncio.WriteTransport] = {}
        self._loop = new_event_loop()
        self._next_id = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def hello(self) -> bytes:
        """The frame that says what is loaded now."""
        details = {place: engine.details for place, engine in self.models.engines.items()}
        facts = {place: Facts(engine.max_length, list(engine.labels)) for place, engine in self.models.engines.items()}
        return encode([Hello(pid=os.getpid(), device=self.device, details=details, facts=facts)])

    def serve(self, path: Path) -> None:
        """Runs until the process ends. Only the owner of the socket may use it: its folder is theirs too, also before `chmod`."""
        self._loop.run_until_complete(self._loop.create_unix_server(lambda: _Connection(self), str(path)))
        path.chmod(0o600)
        self._observe_queue()
        self._loop.run_forever()

    def send(self, answers_by_connection: Mapping[int, Sequence[Message]]) -> None:
        """Sends one frame per connection. The batch loop calls this; the I/O thread writes."""
        frames = {connection: encode(answers) for connection, answers in answers_by_connection.items()}
        self._loop.call_soon_threadsafe(self._answer, frames)

    def register(self, transport: asyncio.WriteTransport) -> int:
        self._next_id += 1
        self.open[self._next_id] = transport
        return self._next_id

    def _observe_queue(self) -> None:
        self._meter.queue_depths(self.queue.depths())
        if self._answered_at is not None and self._loop.time() > self._answered_at + QUIET_S:
            self._answered_at = None
            self._start(asyncio.to_thread(trim))
        self._loop.call_later(OBSERVE_QUEUE_S, self._observe_queue)

    def unregister(self, connection: int) -> None:
        self.open.pop(connection, None)
        self.models.left(connection)
        self._start(self._tidy())

    def load(self, message: Load, *, reply_to: int) -> None:
        """Loads a model, then tells every HTTP process, and last the one that asked for it."""

        async def load() -> None:
            loaded = await self.models.load(message)
            self._write(dict.fromkeys(self.open, self.hello))
            self._write({reply_to: encode([loaded])})
            await self._tidy()  # the process that asked may be gone

        self._start(load())

    def keep(self, message: Keep, *, reply_to: int) -> None:
        """Notes which models an HTTP process needs, and drops those that no process needs."""
        self.models.needs(reply_to, message.places)
        self._start(self._tidy())

    async def _tidy(self) -> None:
        dropped = self.models.drop_unneeded()
        if dropped:
            self._write(dict.fromkeys(self.open, self.hello))
            await asyncio.to_thread(give_back_memory, dropped)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _answer(self, frames: dict[int, bytes]) -> None:
        self._write(frames)
        self._answered_at = self._loop.time()
        if not self._is_write_due:
            self._is_write_due = True
            self._loop.call_later(WRITE_METRICS_S, self._write_metrics)

    def _write_metrics(self) -> None:
        self._is_write_due = False
        self._meter.write()

    def _write(self, frames: dict[int, bytes]) -> None:
        for connection, frame in frames.items():
            transport = self.open.get(connection)
            if transport is not None and not transport.is_closing():
                transport.write(frame)


class _Connection(asyncio.Protocol):
    """One HTTP process."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.reader = FrameReader()
        self.id = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.id = self.connections.register(cast(asyncio.WriteTransport, transport))
        self.connections.open[self.id].write(self.connections.hello)

    def data_received(self, data: bytes) -> None:
        for message in self.reader.feed(data):
            if isinstance(message, Job):
                self.connections.queue.put(message, reply_to=self.id)
            elif isinstance(message, Cancel):
                self.connections.queue.cancel(message, reply_to=self.id)
                if self.connections.explanations is not None:
                    self.connections.explanations.cancel(message, reply_to=self.id)
            elif isinstance(message, Explain) and self.connections.explanations is not None:
                self.connections.explanations.put(message, reply_to=self.id)
                self.connections.queue.wake()
            elif isinstance(message, Keep):
                self.connections.keep(message, reply_to=self.id)
            elif isinstance(message, Load):
                self.connections.load(message, reply_to=self.id)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.unregister(self.id)
