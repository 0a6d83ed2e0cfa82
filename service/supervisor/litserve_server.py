"""LitServe's server with five changes.

Each HTTP process has a socket of its own, and is replaced when it dies. CPU workers are forked. When the service stops, no
connection is lost that a client has opened. A worker that can't load its models is started again ever more rarely.
"""

import ctypes
import logging
import multiprocessing
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import litserve as ls
from litserve.loops.loops import inference_worker
from litserve.utils import WorkerSetupStatus

from service import metrics
from service.edge.scoring.under_way import TokensUnderWay
from service.shared import Flag

log = logging.getLogger("valence")
CHECK_S = 0.5
# A worker that could not load its models is started again after 1, 2, 4 … seconds, and at most after so many.
MOST_WAIT_S = 30
# How long HTTP processes take connections that were opened before the listening sockets close: longer than a client on another
# continent needs to open one.
LAST_CONNECTIONS_S = 0.3
# From linux/socket.h and linux/filter.h.
SO_ATTACH_FILTER = 26
# Drops a TCP segment with the flag SYN, which opens a connection, and passes all others.
DROP_OPENING = (
    (0x30, 0, 0, 13),  # load byte 13 of the header, which holds the flags
    (0x45, 0, 1, 0x02),  # unless SYN is among them, skip the next line
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFF),  # pass
)
HttpProcesses = dict[int, multiprocessing.Process]


class Shared(Protocol):
    """Memory in which each HTTP process has a place."""

    def enter(self, place: int) -> None: ...


class Supervisor(ls.LitServer):
    """`LitServer` that also watches its HTTP processes, as LitServe watches its workers.

    The main process owns the listening sockets. When an HTTP process dies, the connections that wait at its socket wait for the
    process that takes its place.

    LitServe would spawn CPU workers. A spawned worker imports torch and transformers anew, which takes most of its start. A
    forked one has them, and shares their memory. CUDA does not survive a fork, so workers on CUDA are spawned."""

    # `draining`: every answer is the last of its connection. `is_stopping`: an HTTP process that ends is not replaced.
    is_stopping = False

    def __init__(self, lit_api: ls.LitAPI, shared: Sequence[Shared], *, http_processes: int, **options: Any) -> None:
        super().__init__(lit_api, **options)
        self.shared = shared
        self.draining = Flag()
        self._listening: list[socket.socket] = []
        self._http_processes: HttpProcesses = {}
        workers = len(self._inference_workers_config_for_api(lit_api.api_path))
        self.under_way = TokensUnderWay(processes=http_processes, workers=workers)
        self._workers: dict[int, multiprocessing.process.BaseProcess] = {}
        self._failures: dict[int, int] = {}  # by worker: how many starts in a row have failed

    def launch_inference_worker(self, lit_api: ls.LitAPI) -> list[multiprocessing.process.BaseProcess]:
        """Starts every worker. `run` calls it once."""
        count = len(self._inference_workers_config_for_api(lit_api.api_path))
        return [self.launch_single_inference_worker(lit_api, worker) for worker in range(count)]

    def launch_single_inference_worker(self, lit_api: ls.LitAPI, worker_id: int) -> multiprocessing.process.BaseProcess:
        """Starts a worker: the first time, and again after each death.

        tests/service/test_litserve_contract.py holds the arguments against those that LitServe passes."""
        lit_api.wait_s = self._wait_s(lit_api, worker_id)
        if self.devices != ["cpu"]:
            self._workers[worker_id] = super().launch_single_inference_worker(lit_api, worker_id)
            return self._workers[worker_id]
        self.workers_setup_status[self._status_key(lit_api, worker_id)] = WorkerSetupStatus.STARTING
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
        self._workers[worker_id] = process
        return process

    def _wait_s(self, lit_api: ls.LitAPI, worker_id: int) -> float:
        """Counts a start of a worker. How long that worker is to wait before it loads its models.

        It waits itself, since the thread that starts it watches the others too."""
        device = self._inference_workers_config_for_api(lit_api.api_path)[worker_id]
        name = f"{device if isinstance(device, str) else device[0]}/{worker_id}"
        before = self._workers.get(worker_id)
        if before is not None:  # the HTTP processes that saw it die may have died with it
            metrics.process_died(before.pid)
        is_first = before is None
        metrics.worker_started(name, restarted=not is_first)
        if is_first or self.workers_setup_status[self._status_key(lit_api, worker_id)] == WorkerSetupStatus.READY:
            self._failures[worker_id] = 0
            return 0
        self._failures[worker_id] += 1
        wait_s = min(MOST_WAIT_S, 2 ** (self._failures[worker_id] - 1))
        log.error("worker %s did not get to load its models; it tries again in %d s", name, wait_s)
        return wait_s

    def _status_key(self, lit_api: ls.LitAPI, worker_id: int) -> str:
        return f"{lit_api.api_path.strip('/')}_{worker_id}"

    def _start_server(self, *arguments: Any, **options: Any) -> HttpProcesses:
        """Starts the HTTP processes, by place. `run` calls it once, and later stops what the returned dictionary holds.

        tests/service/test_litserve_contract.py holds the order of the arguments: port, number of processes, log level, sockets.
        """
        start = super()._start_server
        port, count, log_level, (first,), *rest = arguments
        self._listening = sockets = sharing_port(first, count)

        def start_one(place: int) -> multiprocessing.Process:
            for one in self.shared:
                one.enter(place)
            self.under_way.enter(place)
            return start(port, 1, log_level, [sockets[place]], *rest, **options)[0]

        processes = self._http_processes = {place: start_one(place) for place in range(count)}
        threading.Thread(target=self._watch, args=(processes, start_one), name="http-processes", daemon=True).start()
        return processes

    def stop_taking(self) -> None:
        """Closes the listening sockets, then tells all HTTP processes to answer what they have and to end.

        LitServe tells one after another, and meanwhile each socket would stay open in the other processes: connections would be
        opened that nobody takes. To close a socket resets what waits in its backlog. So first no new connection gets there, and
        the HTTP processes take those that do."""
        self.is_stopping = True
        for listening in self._listening:
            refuse_connections(listening)
        if self._listening:
            time.sleep(LAST_CONNECTIONS_S)
        for listening in self._listening:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
        for process in list(self._http_processes.values()):
            process.terminate()

    def _watch(self, processes: HttpProcesses, start_one: Callable[[int], multiprocessing.Process]) -> None:
        while True:
            time.sleep(CHECK_S)
            for place, process in list(processes.items()):
                if not process.is_alive() and not self.is_stopping:
                    log.error("an HTTP process ended with code %s; another takes its place", process.exitcode)
                    metrics.process_died(process.ident)
                    processes[place] = start_one(place)


def refuse_connections(listening: socket.socket) -> None:
    """Has the kernel drop requests for new connections. Those that are being opened, or wait in the backlog, stay.

    A client repeats its request after a second, and is refused once the socket is closed. Does nothing but on Linux, and where a
    container may set no filter: there a connection may be reset that was opened in the last moment."""
    if sys.platform != "linux":
        return
    with suppress(OSError):
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in DROP_OPENING))
        listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(DROP_OPENING), ctypes.addressof(program)))


def sharing_port(first: socket.socket, count: int) -> list[socket.socket]:
    """`count` sockets at the address of `first`; Linux gives each new connection to one of them at random.

    At a single socket the process that wakes first takes most connections: of 256, one of eight processes had 130, two had
    none."""
    if count == 1 or sys.platform != "linux":
        return [first] * count
    # Set only after `first` was bound without it, so that a second service still finds the port taken.
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    others = []
    for _ in range(count - 1):
        other = socket.socket(first.family, first.type)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(first.getsockname())
        others.append(other)
    return [first, *others]
