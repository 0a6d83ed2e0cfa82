"""What the service uses of the pinned uvicorn. These tests fail when a new release moves it."""

import asyncio
import inspect
from importlib.metadata import version

import pytest
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

from service.edge.http.connection import Connection

OURS = {name for name in vars(Connection) if inspect.isfunction(vars(Connection)[name]) and name != "__init__"}
OVERRIDDEN = OURS & set(dir(HttpToolsProtocol))


@pytest.fixture
def state() -> HttpToolsProtocol:
    """A connection as uvicorn makes one."""

    async def made() -> HttpToolsProtocol:
        config = Config(lambda: None, log_config=None, ws="none")
        config.load()
        return HttpToolsProtocol(config=config, server_state=ServerState(), app_state={}, _loop=asyncio.get_running_loop())

    return asyncio.run(made())


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("uvicorn") == "0.54.0"


def test_we_override_what_there_is() -> None:
    assert {
        "connection_made", "connection_lost", "data_received", "on_headers_complete", "on_body", "on_message_complete",
        "on_response_complete", "pause_writing", "resume_writing", "send_400_response", "shutdown", "_start_asgi_task",
        "_unsupported_upgrade_warning",
    } == OVERRIDDEN  # fmt: skip


@pytest.mark.parametrize("name", sorted(OVERRIDDEN))
def test_what_we_override_takes_what_ours_takes(name: str) -> None:
    theirs, ours = (list(inspect.signature(getattr(kind, name)).parameters) for kind in (HttpToolsProtocol, Connection))
    assert ours == theirs


@pytest.mark.parametrize(
    "attribute",
    [
        "app", "connections", "cycle", "flow", "headers", "loop", "pipeline", "server_state", "timeout_keep_alive",
        "timeout_keep_alive_handler", "timeout_keep_alive_task", "transport", "url", "scope",
    ],
)  # fmt: skip
def test_a_connection_has_what_we_read(state: HttpToolsProtocol, attribute: str) -> None:
    declared = "\n".join(inspect.getsource(method) for method in (HttpToolsProtocol.__init__, HttpToolsProtocol.on_message_begin))
    assert hasattr(state, attribute) or f"self.{attribute} " in declared or f"self.{attribute}:" in declared


@pytest.mark.parametrize(
    "attribute",
    [
        "body", "default_headers", "disconnected", "flow", "keep_alive", "message_event", "more_body", "on_response",
        "response_complete", "response_started", "transport", "waiting_for_100_continue",
    ],
)  # fmt: skip
def test_a_cycle_has_what_we_read_and_set(attribute: str) -> None:
    assert f"self.{attribute} = " in inspect.getsource(RequestResponseCycle.__init__)


@pytest.mark.parametrize("attribute", ["write_paused", "resume_reading", "drain"])
def test_the_flow_control_has_what_we_ask(attribute: str) -> None:
    assert hasattr(FlowControl, attribute) or f"self.{attribute} = " in inspect.getsource(FlowControl.__init__)


def test_a_task_is_made_when_the_head_is_there_and_runs_after_what_came_with_it() -> None:
    """Therefore a body that came in one piece with its head is whole when the edge is called."""
    assert "_start_asgi_task(" in inspect.getsource(HttpToolsProtocol.on_headers_complete)
    assert "create_task(" in inspect.getsource(HttpToolsProtocol._start_asgi_task)
    assert "self.cycle.more_body = False" in inspect.getsource(HttpToolsProtocol.on_message_complete)


def test_the_newest_request_lies_first_in_the_pipeline() -> None:
    assert "self.pipeline.appendleft((self.cycle, app))" in inspect.getsource(HttpToolsProtocol.on_headers_complete)
    assert "self.pipeline.pop()" in inspect.getsource(HttpToolsProtocol.on_response_complete)


def test_when_it_stops_uvicorn_asks_each_connection_to_end_and_waits_for_it() -> None:
    assert "connection.shutdown()" in inspect.getsource(Server.shutdown)
    assert "while self.server_state.connections" in inspect.getsource(Server._wait_tasks_to_complete)


def test_status_lines_are_bytes_by_number() -> None:
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"
