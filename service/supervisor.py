"""LitServe's server, which also replaces an HTTP process that dies, and forks its CPU workers where LitServe would spawn them."""

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from typing import Any

import litserve as ls
from litserve.loops.loops import inference_worker
from litserve.utils import WorkerSetupStatus

from service import metrics

log = logging.getLogger("valence")
CHECK_S = 0.5
HttpProcesses = dict[int, multiprocessing.Process]


class Supervisor(ls.LitServer):
    """`LitServer` whose HTTP processes are watched as its workers are. The listening socket is the main process's, so that the
    others serve on and a new one joins them.

    A spawned worker imports torch and transformers anew, which takes most of its start. A forked one has them, and shares their
    memory. CUDA does not live through a fork, so there LitServe spawns."""

    # Set before the HTTP processes are told to stop.
    is_stopping = False

    def launch_inference_worker(self, lit_api: ls.LitAPI) -> list[multiprocessing.process.BaseProcess]:
        """Every worker; called once by `run`."""
        count = len(self._inference_workers_config_for_api(lit_api.api_path))
        return [self.launch_single_inference_worker(lit_api, worker) for worker in range(count)]

    def launch_single_inference_worker(self, lit_api: ls.LitAPI, worker_id: int) -> multiprocessing.process.BaseProcess:
        """The first start of a worker, and each that follows its death. tests/service/test_litserve_contract.py holds the call
        against LitServe's own."""
        if self.devices != ["cpu"]:
            return super().launch_single_inference_worker(lit_api, worker_id)
        self.workers_setup_status[f"{lit_api.api_path.strip('/')}_{worker_id}"] = WorkerSetupStatus.STARTING
        process = multiprocessing.get_context("fork").Process(
            target=inference_worker,
            args=(
                lit_api,
                "cpu",
                worker_id,
                self._get_request_queue(lit_api.api_path),
                self._transport,
                self.workers_setup_status,
                self._callback_runner,
                self.restart_workers,
            ),
            name="inference-worker",
        )
        process.start()
        return process

    def _start_server(self, *arguments: Any, **options: Any) -> HttpProcesses:
        """Called once by `run`, which stops what is in the dictionary that this returns. tests/service/test_litserve_contract.py
        holds the order of its arguments: port, number of processes."""
        start = super()._start_server
        port, count, *rest = arguments
        processes: HttpProcesses = start(port, count, *rest, **options)

        def start_one() -> multiprocessing.Process:
            return start(port, 1, *rest, **options)[0]

        threading.Thread(target=self._watch, args=(processes, start_one), name="http-processes", daemon=True).start()
        return processes

    def _watch(self, processes: HttpProcesses, start_one: Callable[[], multiprocessing.Process]) -> None:
        while True:
            time.sleep(CHECK_S)
            for place, process in list(processes.items()):
                if not process.is_alive() and not self.is_stopping:
                    log.error("an HTTP process ended with code %s; another takes its place", process.exitcode)
                    metrics.process_died(process.ident)
                    processes[place] = start_one()
