"""The driver for one machine: tokenization in processes beside the forward workers, all fed from here.

A part is read here, encoded in one process, scored in chunks by whichever forward workers are free, and written in one process. A
worker that dies is started again. Its chunk is tried in halves, so a text that kills a process fails alone.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from typing import TypeVar

from service.bulk.encoding import Chunk, Encoded, encode
from service.bulk.forward import Scored, devices, forward_of, score_or_end
from service.bulk.output import Counts, Output, finish
from service.bulk.progress import Progress
from service.bulk.setup import Setup
from service.bulk.sources import Part
from service.logs import configure_logging
from service.prctl import end_with_parent, name_process

Result = TypeVar("Result")
# Token budgets that a forward worker is given at once: between two it waits for this process, about a millisecond.
CHUNK_BUDGETS = {"cpu": 8, "cuda": 64}
# A process that died at encoding or writing a part is started again so often.
ATTEMPTS = 5


class WorkerDied(RuntimeError):
    """A process died again and again, or could not start."""


class Worker:
    """A process, or several, that can be started again."""

    def __init__(self, name: str, context: ForkServerContext, *, processes: int = 1) -> None:
        self._name, self._context, self._processes = name, context, processes
        self.pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._processes, self._context, initializer=begin_process, initargs=(self._name,))

    async def run(self, task: Callable[..., Result], *given: object) -> Result:
        """In one of the processes. BrokenProcessPool where it died; the next call finds another."""
        pool = self.pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, task, *given)
        except BrokenProcessPool:
            if pool is self.pool:
                pool.shutdown(wait=False)
                self.pool = self._started()
            raise

    async def run_until_done(self, task: Callable[..., Result], *given: object) -> Result:
        """The same, again where the process died."""
        for _ in range(ATTEMPTS):
            try:
                return await self.run(task, *given)
            except BrokenProcessPool:
                pass
        raise WorkerDied(f"a {self._name} process died {ATTEMPTS} times at the same rows; its memory may not do")

    def close(self) -> None:
        """After what it does now."""
        self.pool.shutdown(cancel_futures=True)


def begin_process(name: str) -> None:
    """Ends with the driver, whatever ends that. The kernel's word is of the fork server between, which lives as long as this."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    threading.Thread(target=end_after, args=(driver.sentinel,), daemon=True).start()
    end_with_parent()
    name_process(name)
    configure_logging("info", "auto")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; this process is stopped by its parent


def end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


class Embedded:
    """The processes of a run on this machine, as many as the service would start."""

    def __init__(self, setup: Setup, output: Output, progress: Progress, *, device: str) -> None:
        settings = setup.settings
        self.setup, self.output, self.progress = setup, output, progress
        self.labels = len(setup.served.labels)
        self.chunk_tokens = settings.batch_tokens(device) * CHUNK_BUDGETS[device]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["service.bulk.embedded"])
        self.text_processes = settings.http_process_count(device)
        self.texts = Worker("valence-texts", context, processes=self.text_processes)
        self.workers = {
            Worker("valence-worker", context): one for one in devices(device, workers_per_device=settings.worker_count(device))
        }
        self.idle: asyncio.Queue[Worker] = asyncio.Queue()

    def run(self, parts: Iterator[Part]) -> None:
        """Scores and writes all parts. CatalogError, BadInput or WorkerDied where that can't be done."""
        try:
            asyncio.run(self._run(parts))
        except BaseException as error:
            for process in multiprocessing.active_children():
                process.kill()
            if isinstance(error, ExceptionGroup):
                raise error.exceptions[0] from None
            raise
        finally:
            for worker in (self.texts, *self.workers):
                worker.close()

    async def _run(self, parts: Iterator[Part]) -> None:
        loading = [worker.run_until_done(load, self.setup, device) for worker, device in self.workers.items()]
        await asyncio.gather(*loading)
        self.progress.begin()
        for worker in self.workers:
            self.idle.put_nowait(worker)
        # As many as the processes can work on at once, and one to be read meanwhile: what is in memory does not grow.
        ahead = asyncio.Semaphore(len(self.workers) + self.text_processes + 1)
        async with asyncio.TaskGroup() as group:
            while True:
                await ahead.acquire()
                part = await asyncio.to_thread(next, parts, None)
                if part is None:
                    break
                task = group.create_task(self._part(part))
                task.add_done_callback(lambda _: ahead.release())

    async def _part(self, part: Part) -> Counts:
        encoded = await self.texts.run_until_done(encode, self.setup, part)
        chunks = encoded.chunk.cut(self.chunk_tokens)
        scored = await asyncio.gather(*(self._chunk(chunk, part, encoded) for chunk in chunks))
        whole = Scored.joined(scored, labels=self.labels)
        counts = await self.texts.run_until_done(finish, self.setup, part, encoded, whole, self.output)
        self.progress.part(counts)
        return counts

    async def _chunk(self, chunk: Chunk, part: Part, encoded: Encoded) -> Scored:
        scored = await self._scored(chunk)
        self.progress.texts(len(chunk), tokens=int(chunk.lengths.sum()), of=len(encoded.chunk), rows=len(part.table))
        return scored

    async def _scored(self, chunk: Chunk, *, died_before: bool = False) -> Scored:
        """A text fails where it stood alone both times that its process died: once may be for another reason."""
        worker = await self.idle.get()
        try:
            return await worker.run(score, self.setup, self.workers[worker], chunk)
        except BrokenProcessPool:
            await worker.run_until_done(load, self.setup, self.workers[worker])
        finally:
            self.idle.put_nowait(worker)
        if len(chunk) == 1:
            return Scored.none(1, labels=self.labels) if died_before else await self._scored(chunk, died_before=True)
        return Scored.joined([await self._scored(half) for half in chunk.halves()], labels=self.labels)


def load(setup: Setup, device: str) -> None:
    """In a forward worker. CatalogError where the model can't be loaded."""
    forward_of(setup, device)


def score(setup: Setup, device: str, chunk: Chunk) -> Scored:
    """In a forward worker."""
    return score_or_end(forward_of(setup, device), chunk)
