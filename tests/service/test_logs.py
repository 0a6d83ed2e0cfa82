"""Lines of the log: what they hold, and what is left out."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.logs import TEXT_FORMAT, JsonLine, RepeatFilter, TextLine

ROOT = Path(__file__).parent.parent.parent
Record = Callable[..., logging.LogRecord]


@pytest.fixture
def record() -> Record:
    """A record as `logging` makes it. `fields`: what is passed in `extra`."""

    def make(message: str, *values: object, level: int = logging.WARNING, at: float = 0.5, **fields: object) -> logging.LogRecord:
        made = logging.LogRecord("valence.test", level, "file.py", 1, message, values, exc_info=None)
        made.created = at
        vars(made).update(fields)
        return made

    return make


def test_a_json_line_holds_who_when_what_and_the_extras(record: Record) -> None:
    line = json.loads(JsonLine().format(record("read %d", 3, tokens=5, models=[{"name": "bert"}])))
    assert line.pop("process") > 0
    assert line == {
        "time": "1970-01-01T00:00:00.500Z",
        "level": "warning",
        "logger": "valence.test",
        "message": "read 3",
        "tokens": 5,
        "models": [{"name": "bert"}],
    }


def test_an_exception_stays_on_its_json_line(record: Record) -> None:
    failed = record("failed")
    try:
        raise ValueError("no\nway")
    except ValueError:
        failed.exc_info = sys.exc_info()
    (line,) = JsonLine().format(failed).splitlines()
    assert "ValueError: no\nway" in json.loads(line)["exception"]


@pytest.mark.parametrize("value", ["a\nb", "\ud800", "é", float("inf"), Path("x")], ids=ascii)
def test_what_a_client_sends_does_not_break_a_line(record: Record, value: object) -> None:
    for line in (JsonLine().format(record("x", id=value)), TextLine(TEXT_FORMAT).format(record("x", id=value))):
        assert len(line.splitlines()) == 1
        assert line.isascii()


def test_a_text_line_shows_plain_extras(record: Record) -> None:
    line = TextLine(TEXT_FORMAT).format(record("loaded", dtype="float32", tokens=5, models=[1], none=None))
    assert line.endswith(
        "valence.test [" + str(logging.LogRecord("", 0, "", 0, "", (), None).process) + '] loaded dtype="float32" tokens=5'
    )


def test_a_repeated_warning_is_counted_instead_of_written(record: Record) -> None:
    repeats = RepeatFilter()
    written = [one for at in range(25) if repeats.filter(one := record("the model failed", at=float(at)))]
    assert [one.created for one in written] == [0, 10, 20]
    assert [getattr(one, "left_out", 0) for one in written] == [0, 9, 9]


def test_what_is_no_repetition_is_written(record: Record) -> None:
    repeats = RepeatFilter()
    assert all(repeats.filter(record("worker %s was lost", device)) for device in range(3))
    assert all(repeats.filter(record("request", level=logging.INFO)) for _ in range(3))


LINES = {
    "raised": "1 / 0",
    "raised in a thread": "t = threading.Thread(target=lambda: 1 / 0, name='side'); t.start(); t.join()",
    "logged by transformers": "logging.getLogger('transformers.utils').warning('hello')",
    "logged by litserve": "import litserve; configure_logging('info', 'json'); "
    "logging.getLogger('litserve.server').warning('hello')",
    "warned": "warnings.warn('hello')",
    "logged by us": "logging.getLogger('valence').info('hello'); logging.getLogger('valence').debug('hush')",
}
# The imports take seconds, so they are done once, and each line runs in a fork. There it ends the main module, where nothing
# catches what it raises.
PROCESSES = """
import json, logging, os, sys, threading, warnings
from service.logs import configure_logging

for log_format in ("auto", "json", "text"):
    for name, line in json.loads(sys.argv[1]).items():
        if os.fork() == 0:
            os.dup2(os.open(f"{name}.{log_format}", os.O_WRONLY | os.O_CREAT), 2)
            configure_logging("info", log_format)
            exec(line)
            sys.exit()
        os.wait()
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    """What a process writes to standard error that configures its log and then runs a line."""
    folder = tmp_path_factory.mktemp("output")
    command = [sys.executable, "-c", PROCESSES, json.dumps(LINES)]
    subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120, check=True)
    return lambda name, log_format: (folder / f"{name}.{log_format}").read_text()


@pytest.mark.parametrize("log_format", ["auto", "json"])
@pytest.mark.parametrize(("name", "thread"), [("raised", "MainThread"), ("raised in a thread", "side")])
def test_what_nothing_caught_is_a_line_too(output: Callable[..., str], name: str, thread: str, log_format: str) -> None:
    said = json.loads(output(name, log_format))
    assert (said["level"], said["message"]) == ("critical", f"uncaught ZeroDivisionError in {thread}")
    assert "ZeroDivisionError" in said["exception"]


@pytest.mark.parametrize("name", ["logged by transformers", "logged by litserve", "warned"])
def test_libraries_write_in_our_format(output: Callable[..., str], name: str) -> None:
    assert "hello" in json.loads(output(name, "json"))["message"]


def test_text_is_what_is_asked_for(output: Callable[..., str]) -> None:
    assert re.fullmatch(r"[\d-]+ [\d:,]+ INFO    valence \[\d+] hello\n", output("logged by us", "text"))
