"""Assembles the service: LitServe supervises, our edge answers, our loop computes."""

import gc
import logging
import os
import resource
from functools import partial
from importlib.util import find_spec

import litserve.server
import torch

from service import __version__, metrics
from service.edge.access import Access
from service.edge.app import Edge
from service.edge.http import errors
from service.edge.http.connection import LINGERING, Connection
from service.edge.scoring.admission import MAX_EXPLANATIONS, InFlight
from service.edge.telemetry.workers_log import OneSpeaks
from service.prctl import end_with_parent, name_process
from service.runtime_dir import RuntimeDir
from service.served.catalog import CatalogError, load_catalog
from service.served.roster import Roster, RosterFile
from service.settings import Settings
from service.supervisor.litserve_server import Supervisor
from service.supervisor.signals import stop_children, stop_on_signals
from service.worker.process import WorkerApi, WorkerLoop

log = logging.getLogger("valence")
MONITOR_INTERVAL_S = 0.5
# Sent with every answer, also with refusals that come before any route: a browser must not guess another content type.
SECURITY_HEADERS = [("x-content-type-options", "nosniff")]
# Files that an HTTP process opens besides its connections: those of the metrics, sockets to the workers, the log.
OTHER_FILES = 256
# So many connections may wait to be taken. All that wait are taken at once, before the first that is too many is told so. Without
# a file left for them the event loop would close them, and those behind them, without a word.
BACKLOG = 2048


def serve(settings: Settings, *, runtime_dir: RuntimeDir) -> None:
    """Runs until SIGTERM or Ctrl-C; then answers what is in flight and stops every process.

    CatalogError if a model can't be served, KeysError if the file of keys can't be used, RuntimeError if no worker could load the
    models."""
    name_process("valence")
    litserve.server.configure_logging = leave_logging_alone
    server = build_server(settings, runtime_dir=runtime_dir)
    wanted = files_of(settings.max_connections)
    allowed = allowed_files(wanted)
    if allowed < wanted:
        log.warning("only %d files may be open: --max-connections %d needs %d", allowed, settings.max_connections, wanted)
    gc.collect()
    os.register_at_fork(after_in_child=end_with_parent)  # the HTTP processes, the CPU workers and LitServe's manager are forked
    gc.freeze()  # the forked HTTP processes never scan the objects that are alive now (p99 24 -> 8 ms)
    log.info("starting %s on %s", ", ".join(settings.models), ", ".join(device_names(server)))
    try:
        stop_on_signals(server, drain_s=settings.drain_s)
        server.run(
            host=settings.host,
            port=settings.port,
            num_api_servers=settings.http_process_count(settings.accelerator()),
            log_level="warning",
            log_config=None,
            generate_client_file=False,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            headers=SECURITY_HEADERS,
            http=partial(Connection, max_connections=settings.max_connections, draining=server.draining),
            ws="none",
            timeout_keep_alive=settings.keep_alive_s,
            backlog=BACKLOG,
        )
    except KeyboardInterrupt:
        log.info("stopped before the first worker was ready")
    finally:
        stop_children()
    log.info("stopped")


def build_server(settings: Settings, *, runtime_dir: RuntimeDir) -> Supervisor:
    """The server, not yet running; no process is started and no weight read."""
    accelerator = settings.accelerator()
    torch.set_num_threads(1)  # an operator's module may compute when it is imported, and OpenMP's threads don't survive a fork
    http_processes = settings.http_process_count(accelerator)
    access = Access(settings, http_processes=http_processes)
    if settings.dtype == "int8" and accelerator != "cpu":
        raise CatalogError("--dtype int8 is for the CPU; on CUDA choose bfloat16, or --device cpu")
    if settings.otlp_endpoint is not None:
        _import_tracing()
    if settings.explain_steps and find_spec("captum") is None:
        raise CatalogError("--explain-steps needs the extra: pip install 'valence[explain]'")
    catalog = load_catalog(settings)
    metrics.describe(__version__, [(model.name, model.architecture) for model in catalog])
    roster = RosterFile(runtime_dir)
    roster.write(Roster.of(catalog))
    workers = settings.worker_count(accelerator)
    in_flight = InFlight(processes=http_processes, limit=settings.max_concurrent_requests)
    most = MAX_EXPLANATIONS if settings.explain_steps else 0
    explanations = InFlight(processes=http_processes, limit=most, refusal=errors.too_many_explanations)
    server = Supervisor(
        WorkerApi(settings, roster, WorkerLoop(runtime_dir)),
        [in_flight, explanations, access.limits],
        http_processes=http_processes,
        accelerator=accelerator,
        workers_per_device=workers,
        restart_workers=True,
        timeout=False,
    )
    server.monitor_internal = MONITOR_INTERVAL_S
    server.uvicorn_graceful_timeout = settings.shutdown_grace_s
    build_stack = server.app.build_middleware_stack

    def build_stack_behind_edge() -> Edge:
        """Puts the edge outermost.

        `add_middleware` would put FastAPI's own layers in front, which took a quarter of the HTTP process's time."""
        logging.getLogger("valence.workers").addFilter(OneSpeaks(runtime_dir.speaker))
        return Edge(
            build_stack(),
            settings=settings,
            access=access,
            runtime_dir=runtime_dir,
            draining=server.draining,
            sockets=[runtime_dir.socket(worker) for worker in range(len(server.devices) * workers)],
            in_flight=in_flight,
            under_way=server.under_way,
            explanations=explanations,
            http_processes=http_processes,
        )

    server.app.build_middleware_stack = build_stack_behind_edge
    return server


def device_names(server: Supervisor) -> list[str]:
    """The names of the devices. LitServe has `["cpu"]`, or for CUDA a list for each: `[["cuda:0"], ["cuda:1"]]`."""
    return [device if isinstance(device, str) else ",".join(device) for device in server.devices]


def leave_logging_alone(*args: object, **options: object) -> None:
    """Stands in for LitServe's own function, which would give its lines another format and another stream."""


def _import_tracing() -> None:
    """Imports the exporter in the main process: a missing package is told at once, and the HTTP processes share the memory."""
    try:
        import service.edge.telemetry.tracing  # noqa: F401
    except ImportError as error:
        raise CatalogError(f"--otlp-endpoint needs the extra: pip install 'valence[tracing]' ({error})") from error


def files_of(max_connections: int) -> int:
    """How many files an HTTP process has open at most, with so many connections and all that are told that they are too many."""
    return max_connections + LINGERING + BACKLOG + OTHER_FILES


def allowed_files(wanted: int) -> int:
    """Lets this process and its children open `wanted` files each, as far as the machine allows. A shell allows 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
