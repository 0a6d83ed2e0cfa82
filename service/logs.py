"""Logging of every process: one line an event, to standard error, as JSON or as text. No text, key or token id is ever logged.

{"time": "2026-11-23T12:00:00.000Z", "level": "info", "logger": "valence", "process": 7, "message": "stopped"}
"""

import json
import logging
import math
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

from transformers.utils.logging import disable_progress_bar

LogFormat = Literal["auto", "json", "text"]
TEXT_FORMAT = "%(asctime)s %(levelname)-7s %(name)s [%(process)d] %(message)s"
# The fields of every record; any other was passed in `extra`. `color_message` is uvicorn's message again, in colours.
STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
REPEAT_AFTER_S = 10.0
REMEMBERED_LINES = 1000


def configure_logging(level: str, log_format: LogFormat) -> None:
    """Sets the format and our level, keeps libraries to warnings and errors, and has uncaught exceptions logged."""
    handler = logging.StreamHandler()
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    handler.setFormatter(TextLine(TEXT_FORMAT) if as_text else JsonLine())
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):  # libraries bring handlers of their own, with formats of their own
            logger.handlers.clear()
            logger.propagate = True
    logging.getLogger("litserve").setLevel(logging.WARNING)  # it set its own to info when it was imported
    logging.getLogger("valence").setLevel(level.upper())
    logging.captureWarnings(True)
    sys.excepthook = log_uncaught
    threading.excepthook = lambda failure: log_uncaught(failure.exc_type, failure.exc_value, failure.exc_traceback)
    disable_progress_bar()  # the bar of a load would be lines of another format


def log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Logs an exception that ends a process or a thread, where Python would print it."""
    if not issubclass(kind, KeyboardInterrupt | SystemExit):
        logging.getLogger("valence").critical(
            "uncaught %s in %s", kind.__name__, threading.current_thread().name, exc_info=(kind, error or kind(), trace)
        )


class JsonLine(logging.Formatter):
    """A record as one line of JSON. What was passed in `extra` stands beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **extras(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLine(logging.Formatter):
    """A record for people. Plain values of `extra` follow the message; strings are quoted, so that none can break the line."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        plain = {name: value for name, value in extras(record).items() if isinstance(value, str | int | float)}
        return super().formatMessage(record) + "".join(f" {name}={json.dumps(value)}" for name, value in plain.items())


def extras(record: logging.LogRecord) -> Mapping[str, Any]:
    """What was passed in `extra`."""
    return {name: value for name, value in vars(record).items() if name not in STANDARD_FIELDS}


class RepeatFilter(logging.Filter):
    """Keeps a fault from flooding the log.

    A warning is left out if the same one was written less than `REPEAT_AFTER_S` ago. The next one that is written says in
    `left_out` how many were left out. The metrics count all of them."""

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[tuple[object, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        kind = record.exc_info[0] if record.exc_info else None
        line = (record.name, record.getMessage(), kind)
        written_at, left_out = self._written.get(line, (-math.inf, 0))
        if record.created - written_at < REPEAT_AFTER_S:
            self._written[line] = (written_at, left_out + 1)
            return False
        if len(self._written) >= REMEMBERED_LINES:
            self._written.clear()
        self._written[line] = (record.created, 0)
        if left_out:
            record.left_out = left_out
        return True
