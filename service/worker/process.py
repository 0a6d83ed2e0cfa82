"""The worker process: LitServe starts one per device, `WorkerApi.setup` loads the models, `WorkerLoop` computes for ever.

Two threads share it. The I/O thread talks to the HTTP processes and fills the queue; the main thread takes a batch whenever
the device is free. A worker that dies closes its connections, which is how the HTTP processes know.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import litserve as ls
import msgspec
import numpy as np
import torch
from litserve.loops import LitLoop
from uvloop import new_event_loop

from service.engine.cores import Cores
from service.engine.engine import Engine, FloatArray, Launched
from service.engine.faults import FAULTS_OF_TEXTS, cuda_answers, is_out_of_memory
from service.frames import LOGIT_TYPE, Answer, Cancel, Explain, FrameReader, Hello, Job, Load, Message, Serving, encode
from service.logs import configure_logging
from service.prctl import end_with_parent, name_process
from service.served.catalog import CatalogError, ServedModel, register_all, weights_digest
from service.served.roster import RosterFile
from service.settings import Settings
from service.worker.explaining import Explanations
from service.worker.models import LoadedModels, give_back_memory, load_engine
from service.worker.queue import QueuedText, TextQueue
from service.worker.watchdog import watch

if TYPE_CHECKING:
    from service.metrics import BatchMeter

log = logging.getLogger("valence.worker")
Send = Callable[[Mapping[int, Sequence[Message]]], None]
# Not where the queue changes: it may also shrink by a cancellation, and grows while a batch runs.
OBSERVE_QUEUE_S = 1.0
# What was observed of a batch is there for a scrape after so long.
WRITE_METRICS_S = 0.05
# The token budget is not lowered beyond this.
LEAST_BATCH_TOKENS = 64


def socket_path(runtime_dir: Path, worker_id: int) -> Path:
    """The Unix socket that worker listens on."""
    return runtime_dir / f"worker-{worker_id}.sock"


def refusal_path(runtime_dir: Path) -> Path:
    """Why a worker could not load a model: one sentence."""
    return runtime_dir / "refused"


class WorkerApi(ls.LitAPI):
    """LitServe's hooks: `setup` in the worker; the others are never called, since the edge answers every request."""

    def __init__(self, settings: Settings, roster: RosterFile, loop: LitLoop) -> None:
        super().__init__(api_path="/predict", loop=loop)
        self.settings = settings
        self.roster = roster
        self.names: dict[int, str] = {}
        self.engines: dict[int, Engine] = {}

    def setup(self, device: str) -> None:
        """Loads every model of the roster onto `device` and lets each answer a real forward. CatalogError for one that can't be
        served; the reason is left for the main process."""
        end_with_parent()
        name_process("valence-worker")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked worker has the main process's handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: main stops us, after the last answer
        configure_logging(self.settings.log_level, self.settings.log_format)
        register_all(self.settings.import_modules)
        if device == "cpu":
            torch.set_num_threads(self.settings.thread_count())
        for place, served in self.roster.read().models.items():
            try:
                self._load(place, served, device)
            except CatalogError as error:
                refusal_path(self.loop.runtime_dir).write_text(str(error), encoding="utf-8")
                log.error("%s", error)
                logging.disable()  # LitServe would log a stack, where one sentence says it all
                raise

    def _load(self, place: int, served: ServedModel, device: str) -> None:
        self.engines[place] = load_engine(served, device=device, settings=self.settings)
        self.names[place] = served.name
        if weights_digest(served.path) != served.weights:
            log.warning("%s: the weights in %s have changed since they were first served", served.name, served.path)

    def predict(self, request: Any) -> Any:
        raise NotImplementedError("requests reach the worker through its socket")


class WorkerLoop(LitLoop):
    """LitServe's loop, replaced by the socket server and the batch loop. Pickled to a worker on CUDA: it opens nothing before."""

    def __init__(self, runtime_dir: Path) -> None:
        super().__init__()
        self.runtime_dir = runtime_dir

    def pre_setup(self, lit_api: ls.LitAPI, *rest: Any) -> None:
        """Nothing to check: the default hooks are not used."""

    def __call__(self, lit_api: WorkerApi, device: str, worker_id: int, *rest: Any) -> None:
        from service import metrics  # after LitServe set this process up, so that its metrics file is its own

        path = socket_path(self.runtime_dir, worker_id)
        metrics.worker_started(f"{device}/{worker_id}", restarted=path.exists())
        path.unlink(missing_ok=True)
        max_batch_tokens = lit_api.settings.batch_tokens(device)
        meter = metrics.BatchMeter(lit_api.names, device=f"{device}/{worker_id}", max_batch_tokens=max_batch_tokens)
        queue = TextQueue(max_batch_tokens=max_batch_tokens, on_dropped=meter.texts_dropped)
        models = LoadedModels(
            lit_api.engines, queue=queue, meter=meter, device=device, settings=lit_api.settings, roster=lit_api.roster
        )
        explanations = Explanations(lit_api.engines, max_steps=lit_api.settings.explain_steps)
        connections = Connections(queue, explanations=explanations, models=models, device=f"{device}/{worker_id}", meter=meter)
        threading.Thread(target=connections.serve, args=(path,), name="worker-io", daemon=True).start()
        cores = self._cores(lit_api.settings, worker_id) if device == "cpu" else nullcontext()
        batches = BatchLoop(lit_api.engines, queue, explanations, send=connections.send, meter=meter, cores=cores)
        if lit_api.settings.watchdog_s:
            watch(lambda: batches.busy_since, limit_s=lit_api.settings.watchdog_s)
        try:
            batches.run()
        except Exception:
            log.critical("the worker failed, and ends", exc_info=True)
            sys.exit(1)

    def _cores(self, settings: Settings, worker_id: int) -> Cores:
        return Cores(
            self.runtime_dir / "busy",
            worker=worker_id,
            workers=settings.worker_count("cpu"),
            share=settings.thread_count(),
            total=settings.lone_thread_count(),
        )


class Running(msgspec.Struct, gc=False):
    """A batch that was handed to its engine; `launched` is the error where that failed."""

    model: int
    engine: Engine
    batch: list[QueuedText]
    launched: Launched | Exception
    started_at: float


class BatchLoop:
    """Takes batches, computes them, sends the answers. Where the device works by itself, the next batch is launched before the
    last one's answers are made, so that it never waits for Python. `cores` is held while a forward runs. `busy_since`: when the
    step that runs began; None while there is nothing to do."""

    def __init__(
        self,
        engines: Mapping[int, Engine],
        queue: TextQueue,
        explanations: Explanations,
        *,
        send: Send,
        meter: "BatchMeter",
        cores: AbstractContextManager[None],
    ) -> None:
        self.engines = engines
        self.queue = queue
        self.explanations = explanations
        self._send = send
        self._meter = meter
        self._cores = cores
        self._running: Running | None = None
        self._finished_at = 0.0
        self.busy_since: float | None = None

    def run(self) -> None:
        """For ever."""
        while True:
            self.step()

    def step(self) -> None:
        """Launches a batch, if one is to be had, and finishes the one before. Then a step of an explanation, where it is time."""
        before = self._running
        taken = None
        if before is None:
            taken = self.queue.take(self.explanations.wait_s)
        elif self._is_worth_a_launch(before):
            taken = self.queue.take_at_once()
        self.busy_since = time.monotonic()
        self._running = self._launch(*taken) if taken else None
        if before is not None:
            self._finish(before)
        if self._running is not None and not self._running.engine.overlaps:
            self._finish(self._running)
            self._running = None
        if before is not None or taken is not None:
            self.explanations.texts_came()
        if self.explanations.due:
            self._explain()
        if self._running is None:
            self.busy_since = None

    def _is_worth_a_launch(self, running: Running) -> bool:
        """Half of what runs, at least: a batch launched too early is a small one."""
        return self.queue.tokens * 2 >= sum(len(text.text.ids) for text in running.batch)

    def _launch(self, model: int, batch: list[QueuedText]) -> Running | None:
        engine = self.engines.get(model)
        if engine is None:  # dropped since the batch was taken: nobody waits for it
            return None
        started_at = time.monotonic()
        with self._cores:
            try:
                launched: Launched | Exception = engine.launch([text.text for text in batch])
            except FAULTS_OF_TEXTS as error:
                launched = error  # which text is at fault is found out when its turn comes
        return Running(model, engine, batch, launched, started_at)

    def _finish(self, running: Running) -> None:
        engine, batch = running.engine, running.batch
        logits, failed = finish(engine, running, relieve=self._relieve)
        now = time.monotonic()
        started_at = max(running.started_at, self._finished_at)
        self._finished_at = now
        self._send(answers(batch, logits, failed, started_at=started_at, inference_s=now - started_at))
        padding = engine.padding([text.text for text in batch])
        self._meter.observe(
            running.model, batch, started_at=started_at, inference_s=now - started_at, failed=len(failed), padding=padding
        )

    def _explain(self) -> None:
        self.busy_since = time.monotonic()
        with self._cores:
            explained = self.explanations.step()
        if explained:
            self._send(explained)

    def _relieve(self, tokens: int) -> None:
        """A batch of so many tokens took more memory than there is: later ones are smaller."""
        torch.cuda.empty_cache()  # nothing happens without CUDA
        self.queue.max_batch_tokens = min(self.queue.max_batch_tokens, max(LEAST_BATCH_TOKENS, tokens // 2))
        self._meter.out_of_memory(limit=self.queue.max_batch_tokens)
        log.warning("out of memory with %d tokens; batches hold %d from now on", tokens, self.queue.max_batch_tokens)


Relieve = Callable[[int], None]


def finish(engine: Engine, running: Running, *, relieve: Relieve) -> tuple[FloatArray, set[int]]:
    """What `score` gives, for a batch under way."""
    try:
        if isinstance(running.launched, Exception):
            raise running.launched
        return running.launched.wait(), set()
    except FAULTS_OF_TEXTS as error:
        return score_halves(engine, running.batch, error, relieve=relieve)


def score(engine: Engine, batch: Sequence[QueuedText], *, relieve: Relieve) -> tuple[FloatArray, set[int]]:
    """Logits (texts, labels), and the places in the batch that the model raised on, whose rows mean nothing."""
    try:
        return engine.logits([text.text for text in batch]), set()
    except FAULTS_OF_TEXTS as error:
        return score_halves(engine, batch, error, relieve=relieve)


def score_halves(
    engine: Engine, batch: Sequence[QueuedText], error: Exception, *, relieve: Relieve
) -> tuple[FloatArray, set[int]]:
    """What `score` gives, for a batch that failed: it is halved until the text at fault stands alone, so its neighbours get their
    scores. `relieve` is told the tokens of a batch that memory did not hold."""
    if is_out_of_memory(error):
        relieve(sum(len(text.text.ids) for text in batch))
    elif engine.device.type == "cuda" and not cuda_answers():
        raise error  # a CUDA error that sticks: the process must be replaced
    if len(batch) == 1:
        log.warning("the model failed on a text: %s", type(error).__name__, extra={"tokens": len(batch[0].text.ids)})
        return np.zeros((1, 1), dtype=np.float32), {0}
    middle = len(batch) // 2
    first, first_failed = score(engine, batch[:middle], relieve=relieve)
    second, second_failed = score(engine, batch[middle:], relieve=relieve)
    return _stacked(first, second), first_failed | {middle + place for place in second_failed}


def _stacked(first: FloatArray, second: FloatArray) -> FloatArray:
    """The rows of a half in which every text failed know nothing of the number of labels."""
    labels = max(first.shape[1], second.shape[1])
    return np.concatenate(
        [rows if rows.shape[1] == labels else np.zeros((len(rows), labels), rows.dtype) for rows in (first, second)]
    )


def answers(
    batch: Sequence[QueuedText], logits: FloatArray, failed: set[int], *, started_at: float, inference_s: float
) -> dict[int, list[Answer]]:
    """The answers of a batch by connection, the texts of one request together: they are neighbours in the queue."""
    result: dict[int, list[Answer]] = defaultdict(list)
    start = 0
    while start < len(batch):
        text = batch[start]
        end = start + 1
        while end < len(batch) and batch[end].job_id == text.job_id and batch[end].reply_to == text.reply_to:
            end += 1
        scored = [place for place in range(start, end) if place not in failed] if failed else range(start, end)
        answer = Answer(
            id=text.job_id,
            texts=[batch[place].index for place in scored],
            logits=(logits[start:end] if len(scored) == end - start else logits[scored]).astype(LOGIT_TYPE, copy=False).tobytes(),
            failed=[batch[place].index for place in range(start, end) if place in failed] if failed else [],
            queue_s=started_at - text.sent_at,
            inference_s=inference_s,
        )
        result[text.reply_to].append(answer)
        start = end
    return result


class Connections:
    """The I/O thread: accepts the HTTP processes, queues what they send, sends what the batch loop hands over."""

    def __init__(
        self,
        queue: TextQueue,
        *,
        explanations: Explanations,
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
        self.open: dict[int, asyncio.WriteTransport] = {}
        self._loop = new_event_loop()
        self._next_id = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def hello(self) -> bytes:
        """What is loaded now."""
        details = {place: engine.details for place, engine in self.models.engines.items()}
        return encode([Hello(pid=os.getpid(), device=self.device, details=details)])

    def serve(self, path: Path) -> None:
        """Runs until the process ends. The socket is made readable to its owner only."""
        os.umask(0o177)
        self._loop.run_until_complete(self._loop.create_unix_server(lambda: _Connection(self), str(path)))
        self._observe_queue()
        self._loop.run_forever()

    def send(self, answers_by_connection: Mapping[int, Sequence[Message]]) -> None:
        """Called by the batch loop; one frame per connection, written by the I/O thread."""
        frames = {connection: encode(answers) for connection, answers in answers_by_connection.items()}
        self._loop.call_soon_threadsafe(self._answer, frames)

    def register(self, transport: asyncio.WriteTransport) -> int:
        self._next_id += 1
        self.open[self._next_id] = transport
        return self._next_id

    def _observe_queue(self) -> None:
        self._meter.queue_depths(self.queue.depths())
        self._loop.call_later(OBSERVE_QUEUE_S, self._observe_queue)

    def unregister(self, connection: int) -> None:
        self.open.pop(connection, None)
        self.models.left(connection)
        self._start(self._tidy())

    def load(self, message: Load, *, reply_to: int) -> None:
        """Loads a model, tells every HTTP process, then the one that asked."""

        async def load() -> None:
            loaded = await self.models.load(message)
            self._write(dict.fromkeys(self.open, self.hello))
            self._write({reply_to: encode([loaded])})
            await self._tidy()  # who asked may be gone

        self._start(load())

    def keep(self, message: Serving, *, reply_to: int) -> None:
        """What an HTTP process needs; what none needs is dropped."""
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
                self.connections.explanations.cancel(message, reply_to=self.id)
            elif isinstance(message, Explain):
                self.connections.explanations.put(message, reply_to=self.id)
                self.connections.queue.wake()
            elif isinstance(message, Serving):
                self.connections.keep(message, reply_to=self.id)
            elif isinstance(message, Load):
                self.connections.load(message, reply_to=self.id)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.unregister(self.id)
