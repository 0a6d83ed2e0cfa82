"""Assembles the service: LitServe supervises, our edge answers, our loop computes."""

import gc
import logging
import multiprocessing
import os
import signal
from pathlib import Path
from types import FrameType

import litserve as ls

from service import __version__, metrics, openapi
from service.catalog import CatalogError, load_catalog
from service.edge import Edge
from service.lifetime import end_with_parent
from service.logs import configure_logging
from service.roster import Roster, RosterFile
from service.settings import Settings
from service.worker import WorkerApi, WorkerLoop, socket_path

log = logging.getLogger("valence")
MONITOR_INTERVAL_S = 0.5


def serve(settings: Settings, *, runtime_dir: Path) -> None:
    """Runs until SIGTERM or Ctrl-C; then answers what is in flight and stops every process. CatalogError if a model can't be
    served, RuntimeError if no worker could load them."""
    configure_logging(settings.log_level)
    server = build_server(settings, runtime_dir=runtime_dir)
    device = server.devices[0].split(":")[0]
    _stop_on_signals()
    gc.collect()
    os.register_at_fork(after_in_child=end_with_parent)  # LitServe forks its HTTP processes and its manager
    gc.freeze()  # the HTTP processes are forked: what is alive now is never scanned by them (p99 24 -> 8 ms)
    log.info(
        "serving %s on %s, %d HTTP processes, http://%s:%d",
        ", ".join(settings.models), ", ".join(server.devices), settings.http_process_count(device), settings.host, settings.port,
    )  # fmt: skip
    try:
        server.run(
            host=settings.host,
            port=settings.port,
            num_api_servers=settings.http_process_count(device),
            log_level="warning",
            generate_client_file=False,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
    except KeyboardInterrupt:
        log.info("stopped before the first worker was ready")
    finally:
        _stop_children()


def build_server(settings: Settings, *, runtime_dir: Path) -> ls.LitServer:
    """The server, not yet running; no process is started and no weight read."""
    accelerator = settings.accelerator()
    if settings.dtype == "int8" and accelerator != "cpu":
        raise CatalogError("--dtype int8 is for the CPU; on CUDA choose bfloat16, or --device cpu")
    catalog = load_catalog(settings)
    metrics.describe(__version__, [(model.name, model.architecture) for model in catalog])
    roster = RosterFile(runtime_dir)
    roster.write(Roster.of(catalog))
    workers = settings.worker_count(accelerator)
    server = ls.LitServer(
        WorkerApi(settings, roster, WorkerLoop(runtime_dir)),
        accelerator=accelerator,
        workers_per_device=workers,
        restart_workers=True,
        timeout=False,
    )
    server.monitor_internal = MONITOR_INTERVAL_S
    server.uvicorn_graceful_timeout = settings.shutdown_grace_s
    server.app.openapi = openapi.document
    build_stack = server.app.build_middleware_stack

    def build_stack_behind_edge() -> Edge:
        """Not by `add_middleware`, which puts FastAPI's own layers in front: they took a quarter of the HTTP process's time."""
        return Edge(
            build_stack(),
            settings=settings,
            runtime_dir=runtime_dir,
            sockets=[socket_path(runtime_dir, worker) for worker in range(len(server.devices) * workers)],
            http_processes=settings.http_process_count(accelerator),
        )

    server.app.build_middleware_stack = build_stack_behind_edge
    return server


def _stop_children() -> None:
    """Ends what LitServe leaves running where it is interrupted or fails while it starts; after an orderly stop, nothing."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(timeout=5)


def _stop_on_signals() -> None:
    """SIGTERM does what Ctrl-C does. LitServe on its own would exit at once and leave its children serving the port."""
    main_pid = os.getpid()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        # The HTTP processes inherit this handler; uvicorn puts its own in front, and raises the signal again when it is done.
        if os.getpid() != main_pid:
            return
        # LitServe's monitor thread would log a stack when it finds its manager gone
        logging.getLogger("litserve.server").setLevel(logging.CRITICAL)
        signal.default_int_handler(signum, frame)

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
