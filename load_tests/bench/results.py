"""A benchmark's results: values, JSON, and the form of a table. `promises`, `markdown` and `plots` are made from the values."""

import dataclasses
import json
import math
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from load_tests.bench.answers import AnswerCheck
from load_tests.generator.report import Report
from load_tests.servers import ROOT

BATCH_TEXTS = 32
PROMISED_CONNECTIONS = 64


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One load on one server. `rate` is in requests/s of an open loop; None: closed loop. `busy_cores_before`: cores that
    everything but the server kept busy just before; should be near 0. `gpu_busy_percent`: share of the time a kernel ran."""

    connections: int
    texts_per_request: int
    rate: float | None = None
    busy_cores_before: float
    gpu_busy_percent: float | None = None
    report: Report


@dataclass(frozen=True, kw_only=True)
class ServerResult:
    """One server in one configuration. `contender` is its name in the catalog, `dtype` the arithmetic of its forward, `settings`
    the flags that the grid added. If `loads` is empty, `answers` says what was wrong."""

    contender: str
    name: str
    dtype: str
    arguments: str
    settings: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    answers: AnswerCheck
    loads: list[Measured]
    open_loads: list[Measured] = field(default_factory=list)
    idle_cpu_percent: float | None = None

    def load(self, *, connections: int | None, texts_per_request: int) -> Report | None:
        """The report of a closed loop; `connections` None: the first with requests of that size."""
        for measured in self.loads:
            if measured.texts_per_request == texts_per_request and connections in (None, measured.connections):
                return measured.report
        return None

    @property
    def saturation(self) -> float:
        """The most single texts a second in any closed loop; 0 if there was none."""
        return max((found.report.requests_per_s for found in self.loads if found.texts_per_request == 1), default=0.0)


@dataclass(frozen=True, kw_only=True)
class Unmeasured:
    """A server, or one of its configurations, that has no figures, and why."""

    name: str
    settings: str = ""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Forward:
    """The bare packed forward, with no server up."""

    dtype: str
    compiled: bool = False
    texts_per_s: float
    one_text_p50_ms: float

    @property
    def name(self) -> str:
        return f"{self.dtype}, compiled" if self.compiled else self.dtype


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that one run found. The lists grow while it runs. `grid` has each configuration that was tried, under one load;
    `servers` has the fastest configuration of each server, under all loads."""

    command: str
    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    setup: dict[str, str]
    forwards: list[Forward] = field(default_factory=list)
    grid: list[ServerResult] = field(default_factory=list)
    servers: list[ServerResult] = field(default_factory=list)
    unmeasured: list[Unmeasured] = field(default_factory=list)

    def server(self, contender: str, dtype: str | None = None) -> ServerResult | None:
        """A measured one; `dtype` None: the first of that name."""
        for server in self.servers:
            if server.contender == contender and dtype in (None, server.dtype) and server.loads:
                return server
        return None


def to_dict(results: Results) -> dict[str, Any]:
    """For JSON: a figure that is not a number becomes null."""
    content: dict[str, Any] = _null_for_nan(dataclasses.asdict(results))
    return content


def to_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _null_for_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _null_for_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_null_for_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def neutral(text: str) -> str:
    """`text` as a record shows it, without this machine's folders: the repository's, and any in the folder for temporary files.

    >>> neutral(f"--model {tempfile.gettempdir()}/bench-x7k2/random-bert-base {ROOT}/models/builder.py")
    '--model random-bert-base models/builder.py'
    """
    return re.sub(rf"(?<!\w){re.escape(tempfile.gettempdir())}/[^/\s]+/", "", text.replace(f"{ROOT}/", ""))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    rendered = [f"| {' | '.join(line)} |" for line in [columns, *rows]]
    return "\n".join([rendered[0], f"|{'---|' * len(columns)}", *rendered[1:]])
