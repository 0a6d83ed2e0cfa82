"""What the service uses of the pinned LitServe. These tests fail when a new release moves it."""

import ast
import inspect
import os
import textwrap
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import litserve as ls
import pytest
from litserve.loops import LitLoop
from litserve.loops.loops import inference_worker
from litserve.utils import WorkerSetupStatus

from service import metrics
from service.runtime_dir import RuntimeDir
from service.settings import Settings
from service.supervisor.litserve_server import Supervisor
from service.supervisor.server import build_server, device_names
from service.worker.process import WorkerLoop


@pytest.fixture
def server(settings_of: Callable[..., Settings], tmp_path: Path) -> ls.LitServer:
    return build_server(settings_of(workers_per_device=2), runtime_dir=RuntimeDir(tmp_path))


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("litserve") == "0.2.19"


def test_the_loop_is_called_with_api_device_and_worker_id_first() -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(inference_worker)))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "loop"
    ]
    (call,) = calls
    assert [argument.id for argument in call.args[:3] if isinstance(argument, ast.Name)] == ["lit_api", "device", "worker_id"]
    assert not call.keywords


def test_setup_is_called_with_the_device_before_the_loop() -> None:
    source = inspect.getsource(inference_worker)
    assert source.index("lit_api.setup(device)") < source.index("    loop(")


def test_our_loop_is_a_litloop_that_overrides_what_it_must() -> None:
    assert issubclass(WorkerLoop, LitLoop)
    assert list(inspect.signature(LitLoop.pre_setup).parameters)[:2] == ["self", "lit_api"]


def test_cuda_devices_are_lists(settings_of: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litserve.connector.check_cuda_with_nvidia_smi", lambda: 2)
    found = build_server(settings_of(device="cuda"), runtime_dir=RuntimeDir(tmp_path))
    assert found.devices == [["cuda:0"], ["cuda:1"]]
    assert device_names(found) == ["cuda:0", "cuda:1"]
    assert len(found.app.build_middleware_stack().links) == 2


def test_a_loop_is_taken_by_the_api(server: ls.LitServer) -> None:
    (api,) = server.litapi_connector
    assert isinstance(api.loop, WorkerLoop)


@pytest.mark.parametrize("attribute", ["monitor_internal", "uvicorn_graceful_timeout", "devices", "app", "restart_workers"])
def test_litserver_has_the_attributes_that_we_set_or_read(attribute: str) -> None:
    assert f"self.{attribute} = " in inspect.getsource(ls.LitServer)


def test_http_processes_are_started_as_the_supervisor_starts_them_again() -> None:
    parameters = list(inspect.signature(ls.LitServer._start_server).parameters)
    assert parameters[:5] == ["self", "port", "num_uvicorn_servers", "log_level", "sockets"]
    assert "uvicorn_workers = self._start_server(" in inspect.getsource(ls.LitServer.run)
    assert "return dict(enumerate(workers))" in inspect.getsource(ls.LitServer._start_server)


def started_process(cls: type[ls.LitServer]) -> dict[str, str]:
    """The arguments, as source, that a class's method which starts one worker passes to `Process`. The device is left out."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls.launch_single_inference_worker)))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".Process")]
    (call,) = calls
    return {str(word.arg): ast.unparse(word.value).replace("'cpu'", "device") for word in call.keywords}


def test_a_worker_is_forked_with_what_litserve_spawns_it_with() -> None:
    assert started_process(Supervisor) == started_process(ls.LitServer)
    assert list(inspect.signature(ls.LitServer.launch_inference_worker).parameters) == ["self", "lit_api"]
    assert 'workers_setup_status[f"{endpoint}_{worker_id}"] = WorkerSetupStatus.STARTING' in inspect.getsource(ls.LitServer)


@pytest.mark.parametrize(
    ("ends", "waits"),
    [
        (["STARTING"] * 7, [1, 2, 4, 8, 16, 30, 30]),
        (["ERROR", "READY", "READY", "ERROR"], [1, 0, 0, 1]),
    ],
)
def test_a_worker_that_could_not_be_set_up_waits_longer_each_time(
    server: Supervisor, monkeypatch: pytest.MonkeyPatch, ends: list[str], waits: list[int]
) -> None:
    """As LitServe's monitor starts it again. `ends`: its status when it died."""
    monkeypatch.setattr("service.supervisor.litserve_server.multiprocessing.get_context", lambda _: StandInContext())
    server.workers_setup_status, server._transport = {}, None
    server.litapi_request_queues = defaultdict(lambda: None)
    (api,) = server.litapi_connector
    restarts = restarts_of("cpu/0")
    server.launch_inference_worker(api)
    found = []
    for status in ends:
        server.workers_setup_status["predict_0"] = getattr(WorkerSetupStatus, status)
        server.launch_single_inference_worker(api, 0)
        found.append(api.wait_s)
    assert found == waits
    assert restarts_of("cpu/0") == restarts + len(ends)


def test_the_gauges_of_a_dead_worker_go_with_it(server: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """An HTTP process that lost its worker drops them too, but may have been killed at the same moment."""
    monkeypatch.setattr("service.supervisor.litserve_server.multiprocessing.get_context", lambda _: StandInContext())
    server.workers_setup_status, server._transport = {}, None
    server.litapi_request_queues = defaultdict(lambda: None)
    (api,) = server.litapi_connector
    server.launch_inference_worker(api)
    left = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) / f"gauge_livesum_{StandInContext.pid}.db"
    left.touch()
    server.workers_setup_status["predict_0"] = WorkerSetupStatus.READY
    server.launch_single_inference_worker(api, 0)
    assert not left.exists()


class StandInContext:
    """Starts no process."""

    pid = 4_000_000

    def Process(self, **_: object) -> "StandInContext":
        return self

    def start(self) -> None: ...


def restarts_of(device: str) -> float:
    return float(metrics.WORKER_RESTARTS.labels(device)._value.get())


def test_the_monitor_starts_a_worker_again_by_the_method_that_we_override() -> None:
    source = inspect.getsource(ls.LitServer._start_worker_monitoring)
    assert "self.inference_workers[idx] = self.launch_single_inference_worker(lit_api, worker_id)" in source
    source = inspect.getsource(inference_worker)
    assert 'endpoint = lit_api.api_path.split("/")[-1]' in source
    assert 'workers_setup_status[f"{endpoint}_{worker_id}"] = WorkerSetupStatus.READY' in source


def test_the_server_is_assembled_as_we_mean(server: ls.LitServer) -> None:
    assert server.devices == ["cpu"]
    assert (server.monitor_internal, server.uvicorn_graceful_timeout) == (0.5, 30)
    assert server.restart_workers is True


@pytest.mark.parametrize("parameter", ["host", "port", "num_api_servers", "log_level", "generate_client_file", "kwargs"])
def test_run_takes_what_we_pass(parameter: str) -> None:
    assert parameter in inspect.signature(ls.LitServer.run).parameters


def test_our_edge_is_outermost(server: ls.LitServer) -> None:
    from service.edge.app import Edge

    assert isinstance(server.app.build_middleware_stack(), Edge)
