"""The worker process: LitServe starts one per device, `WorkerApi.setup` loads the models, `WorkerLoop` computes for ever.

Two threads share it. The I/O thread talks to the HTTP processes and fills the queue; the main thread takes a batch whenever
the device is free. Where one ends, the process ends. When a worker dies its connections close, and by that the HTTP processes
know.
"""

import logging
import signal
import sys
import time
from contextlib import nullcontext
from functools import partial
from typing import Any

import litserve as ls
import torch
from litserve.loops import LitLoop

from service.engine.cores import Cores
from service.engine.engine import Engine
from service.logs import configure_logging
from service.prctl import end_with_parent, name_process
from service.runtime_dir import RuntimeDir
from service.served.catalog import CatalogError, ServedModel, register_all, weights_digest
from service.served.roster import RosterFile
from service.settings import Settings
from service.worker import threads
from service.worker.batch_loop import BatchLoop
from service.worker.connections import Connections
from service.worker.explaining import Explanations
from service.worker.models import LoadedModels, load_engine, reason
from service.worker.queue import TextQueue
from service.worker.watchdog import watch

log = logging.getLogger("valence.worker")


class WorkerApi(ls.LitAPI):
    """LitServe's hooks. `setup` runs in the worker; the others are never called, since the edge answers every request."""

    def __init__(self, settings: Settings, roster: RosterFile, loop: LitLoop) -> None:
        super().__init__(api_path="/predict", loop=loop)
        self.settings = settings
        self.roster = roster
        self.names: dict[int, str] = {}
        self.engines: dict[int, Engine] = {}
        self.wait_s = 0.0  # before it loads the models: the supervisor sets it after starts that failed

    def setup(self, device: str) -> None:
        """Loads every model of the roster onto `device` and lets each answer a real forward.

        Raises for a model that can't be served; a file then tells the main process the reason."""
        end_with_parent()
        name_process("valence-worker")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked worker has the main process's handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: main ends us after the last answer
        configure_logging(self.settings.log_level, self.settings.log_format)
        time.sleep(self.wait_s)
        register_all(self.settings.import_modules)
        if device == "cpu":
            torch.set_num_threads(self.settings.thread_count())
        for place, served in self.roster.read().models.items():
            try:
                self._load(place, served, device)
            except Exception as error:  # whatever a class of somebody else's raises
                sentence = str(error) if isinstance(error, CatalogError) else reason(error, served)
                log.debug("%s was not loaded", served.name, exc_info=True)
                log.error("%s", sentence)
                self.loop.runtime_dir.refusal.write_text(sentence, encoding="utf-8")
                logging.disable()  # LitServe would log a stack, where one sentence says it all
                raise

    def _load(self, place: int, served: ServedModel, device: str) -> None:
        self.engines[place] = load_engine(served, device=device, settings=self.settings)
        self.names[place] = served.name
        if weights_digest(*served.folders) != served.weights:
            log.warning("%s: the weights in %s have changed since they were first served", served.name, served.path)

    def predict(self, request: Any) -> Any:
        raise NotImplementedError("requests reach the worker through its socket")


class WorkerLoop(LitLoop):
    """Takes the place of LitServe's loop: the socket server and the batch loop.

    It is pickled for a worker on CUDA, so it opens nothing before it is called there."""

    def __init__(self, runtime_dir: RuntimeDir) -> None:
        super().__init__()
        self.runtime_dir = runtime_dir

    def pre_setup(self, lit_api: ls.LitAPI, *rest: Any) -> None:
        """Nothing to check: the default hooks are not used."""

    def __call__(self, lit_api: WorkerApi, device: str, worker_id: int, *rest: Any) -> None:
        from service.worker.meter import BatchMeter  # after LitServe set this process up, so that its metrics file is its own

        path = self.runtime_dir.socket(worker_id)
        path.unlink(missing_ok=True)
        max_batch_tokens = lit_api.settings.batch_tokens(device)
        meter = BatchMeter(lit_api.names, device=f"{device}/{worker_id}", max_batch_tokens=max_batch_tokens)
        queue = TextQueue(max_batch_tokens=max_batch_tokens, on_dropped=meter.texts_dropped)
        models = LoadedModels(
            lit_api.engines, queue=queue, meter=meter, device=device, settings=lit_api.settings, roster=lit_api.roster
        )
        steps = lit_api.settings.explain_steps
        explanations = Explanations(lit_api.engines, max_steps=steps) if steps else None
        connections = Connections(queue, explanations=explanations, models=models, device=f"{device}/{worker_id}", meter=meter)
        threads.start(partial(connections.serve, path), name="worker-io")
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
            self.runtime_dir.busy_cores,
            worker=worker_id,
            workers=settings.worker_count("cpu"),
            share=settings.thread_count(),
            total=settings.lone_thread_count(),
        )
