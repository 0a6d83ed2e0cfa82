"""The compose file's service, started as Docker would start it. The tests of a container run in order."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SAFETY_S = 60
SIGTERM_BIT = 1 << (signal.SIGTERM - 1)


def left_by_the_service(container: Any, folder: Path) -> Iterator[Path]:
    """What lies in `folder` but for folders of the interpreter, which the engine puts back into /tmp, and the way to them."""
    interpreter = [container.path(place) for place in container.environment["INTERPRETER"].split()]
    for path in folder.iterdir():
        if any(place.is_relative_to(path) and place != path for place in interpreter):
            yield from left_by_the_service(container, path)
        elif path not in interpreter:
            yield path


@pytest.fixture(scope="module")
def container(start_container: Callable[[], Any]) -> Any:
    started = start_container()
    started.wait_until(started.is_ready)
    return started


def test_it_serves_the_models_of_the_mounted_folder(container: Any) -> None:
    answer = container.predict(["a wonderful film", "boring and slow"])
    assert answer.status_code == 200
    assert [{item["label"] for item in result} for result in answer.json()] == [{"negative", "neutral", "positive"}] * 2
    assert container.predict("good", model="tiny-lstm").headers["x-model"] == "tiny-lstm"


def test_its_settings_are_the_environment_of_compose(container: Any) -> None:
    answer = container.predict(["a"] * 4)
    assert answer.status_code == 422
    assert "limit of 3" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/app", "/checkpoints", "/", "/usr"])
def test_it_can_write_nothing_of_the_image(container: Any, path: str) -> None:
    with pytest.raises(OSError, match="Read-only file system"):
        (container.path(path) / "new").touch()


def test_it_leaves_nothing_in_the_temporary_folder_but_its_own(container: Any) -> None:
    temporary = container.path("/tmp")
    names = [str(path.relative_to(temporary)) for path in left_by_the_service(container, temporary)]
    assert [name for name in names if name.startswith("valence-")]
    assert [name for name in names if not re.match(r"valence-|pymp-|torchinductor_", name)] == []


def test_it_is_process_1_without_rights(container: Any) -> None:
    assert Path(f"/proc/{container.pid}/status").read_text().split("NSpid:")[1].split("\n")[0].split()[-1] == "1"
    assert int(container.status("CapEff"), 16) == 0
    assert container.status("NoNewPrivs") == "1"


def test_the_health_check_finds_it_well(container: Any) -> None:
    (command,) = re.findall(r"^HEALTHCHECK .*?(\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    check = [sys.executable, *json.loads(command)[1:]]
    assert subprocess.run(check, env=container.environment, timeout=SAFETY_S, check=False).returncode == 0
    nobody = {**container.environment, "VALENCE_PORT": "1"}
    assert subprocess.run(check, env=nobody, timeout=SAFETY_S, capture_output=True, check=False).returncode != 0


def test_a_worker_that_dies_is_replaced_and_leaves_no_zombie(container: Any) -> None:
    (worker,) = container.workers()
    worker.kill()
    container.wait_until(lambda: not container.is_ready())
    container.wait_until(container.is_ready)
    assert [process for process in container.processes() if process.status() == psutil.STATUS_ZOMBIE] == []
    assert container.predict("good").status_code == 200


def test_sigterm_to_process_1_stops_it_with_status_0(container: Any) -> None:
    psutil.Process(container.pid).terminate()
    assert container.engine.wait(SAFETY_S) == 0, container.log.read_text()
    assert "Traceback" not in container.log.read_text()


def test_sigterm_during_the_imports_of_process_1_stops_it_with_status_0(start_container: Callable[[], Any]) -> None:
    started = start_container()
    started.wait_until(lambda: psutil.Process(started.engine.pid).children())
    started.wait_until(lambda: int(started.status("SigCgt"), 16) & SIGTERM_BIT and "python" in started.status("Name"))
    psutil.Process(started.pid).terminate()
    assert started.engine.wait(SAFETY_S) == 0, started.log.read_text()
    assert started.log.read_text() == ""  # it ended before it logged a line


def test_sigterm_before_the_first_worker_is_ready_stops_it_with_status_0(start_container: Callable[[], Any]) -> None:
    started = start_container()
    started.wait_until(lambda: "starting tiny-bert" in started.log.read_text() and started.workers())
    psutil.Process(started.pid).terminate()
    assert started.engine.wait(SAFETY_S) == 0, started.log.read_text()
    assert "stopped before the first worker was ready" in started.log.read_text()
    assert "Traceback" not in started.log.read_text()
