"""LitServe's server, which also replaces an HTTP process that dies: on its own it watches its workers only."""

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from typing import Any

import litserve as ls

from service import metrics

log = logging.getLogger("valence")
CHECK_S = 0.5
HttpProcesses = dict[int, multiprocessing.Process]


class Supervisor(ls.LitServer):
    """`LitServer` whose HTTP processes are watched as its workers are. The listening socket is the main process's, so that the
    others serve on and a new one joins them."""

    # Set before the HTTP processes are told to stop.
    is_stopping = False

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
