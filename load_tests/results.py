"""A benchmark's results: the figures, what is promised of them, and their forms (JSON, markdown, plot)."""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load_tests.generator import Report

BATCH_TEXTS = 32
PROMISED_CONNECTIONS = 64


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One load on one server."""

    connections: int
    texts_per_request: int
    report: Report


@dataclass(frozen=True, kw_only=True)
class ServerResult:
    """One server in one configuration. `dtype` is the arithmetic of its forward, `settings` what the grid chose among."""

    name: str
    dtype: str
    arguments: str
    settings: str = ""
    loads: list[Measured]
    idle_cpu_percent: float | None = None

    def load(self, *, connections: int | None, texts_per_request: int) -> Report | None:
        """The report of a load; `connections` None: the only one with requests of that size."""
        for measured in self.loads:
            if measured.texts_per_request == texts_per_request and connections in (None, measured.connections):
                return measured.report
        return None


@dataclass(frozen=True, kw_only=True)
class Forward:
    """The bare packed forward, with no server up."""

    dtype: str
    texts_per_s: float
    one_text_p50_ms: float


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A figure that is promised. `value` None: not measured."""

    subject: str
    value: float | None
    goal: float
    at_least: bool
    unit: str

    @property
    def verdict(self) -> str:
        if self.value is None or math.isnan(self.value):
            return "not measured"
        return "met" if (self.value >= self.goal if self.at_least else self.value <= self.goal) else "missed"


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that one run found."""

    command: str
    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    setup: dict[str, str]
    forwards: list[Forward]
    grid: list[ServerResult]
    stock: ServerResult | None
    valence: list[ServerResult]
    promises: list[Promise] = field(default_factory=list)


def promises(valence: Sequence[ServerResult], stock: ServerResult | None, forwards: Iterable[Forward]) -> list[Promise]:
    """What the README promises, for each dtype that was served."""
    bare = {forward.dtype: forward for forward in forwards}
    found = []
    for server in valence:
        found += _promises_of(server, stock, bare.get(server.dtype))
    return found


def _promises_of(server: ServerResult, stock: ServerResult | None, bare: Forward | None) -> list[Promise]:
    busy = server.load(connections=PROMISED_CONNECTIONS, texts_per_request=1)
    stock_busy = stock.load(connections=PROMISED_CONNECTIONS, texts_per_request=1) if stock else None
    batches = server.load(connections=None, texts_per_request=BATCH_TEXTS)
    lone = server.load(connections=1, texts_per_request=1)
    overhead_ms = lone.p50_ms - bare.one_text_p50_ms if lone and bare else None
    return [
        Promise(
            subject=f"{server.name}, {PROMISED_CONNECTIONS} connections: requests/s against {stock.name if stock else 'a peer'}",
            value=busy.requests_per_s / stock_busy.requests_per_s if busy and stock_busy and stock_busy.requests else None,
            goal=3.0, at_least=True, unit="x",
        ),
        Promise(
            subject=f"{server.name}, {BATCH_TEXTS} texts a request: texts/s against the bare packed forward",
            value=batches.texts_per_s / bare.texts_per_s if batches and bare else None,
            goal=0.80, at_least=True, unit="x",
        ),
        Promise(
            subject=f"{server.name}, 1 connection: p50 beyond the bare forward's",
            value=overhead_ms, goal=2.0, at_least=False, unit=" ms",
        ),
        Promise(
            subject=f"{server.name}, idle: CPU of all its processes, of one core",
            value=server.idle_cpu_percent, goal=2.0, at_least=False, unit="%",
        ),
    ]  # fmt: skip


def to_json(results: Results) -> str:
    """All of it; a figure that is not a number becomes null."""
    content = dataclasses.asdict(results)
    content["promises"] = [{**dataclasses.asdict(promise), "verdict": promise.verdict} for promise in results.promises]
    return json.dumps(_null_for_nan(content), indent=1, ensure_ascii=False) + "\n"


def _null_for_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _null_for_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_null_for_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def to_markdown(results: Results) -> str:
    """The tables that a reader wants first."""
    parts = [
        f"# Benchmark, {results.date}",
        f"`{results.command}`",
        table(["", ""], [[name, value] for name, value in {**results.machine, **results.versions, **results.setup}.items()]),
        "## Promises",
        table(["", "measured", "goal", ""], [_promise_row(promise) for promise in results.promises]),
        "## Servers",
        table(LOAD_COLUMNS, [row for server in _servers(results) for row in load_rows(server)]),
        *(f"- {server.name}: `python {server.arguments}`" for server in _servers(results)),
        "## Bare packed forward (no HTTP)",
        table(
            ["dtype", "texts/s", "one text, p50 ms"],
            [[forward.dtype, f"{forward.texts_per_s:.0f}", f"{forward.one_text_p50_ms:.2f}"] for forward in results.forwards],
        ),
    ]
    if results.grid:
        parts += [
            "## Stock LitServe: how its configuration was chosen",
            table(
                ["settings", *LOAD_COLUMNS[1:]],
                [[server.settings, *row[1:]] for server in results.grid for row in load_rows(server)],
            ),
        ]
    return "\n\n".join(parts).replace("`\n\n- ", "`\n- ") + "\n"


LOAD_COLUMNS = [
    *("server", "connections", "texts a request", "requests/s", "texts/s"),
    *("p50 ms", "p90 ms", "p99 ms", "errors", "generator CPU"),
]


def load_rows(server: ServerResult) -> list[list[str]]:
    """A row for each load, as `LOAD_COLUMNS`."""
    return [
        [
            server.name,
            str(measured.connections),
            str(measured.texts_per_request),
            *(f"{value:.1f}" for value in (measured.report.requests_per_s, measured.report.texts_per_s)),
            *(f"{value:.1f}" for value in (measured.report.p50_ms, measured.report.p90_ms, measured.report.p99_ms)),
            ", ".join(f"{count} {name}" for name, count in measured.report.errors.items()) or "0",
            f"{100 * measured.report.generator_cpu:.0f}%",
        ]
        for measured in server.loads
    ]


def _servers(results: Results) -> list[ServerResult]:
    return [*([results.stock] if results.stock else []), *results.valence]


def _promise_row(promise: Promise) -> list[str]:
    measured = "-" if promise.value is None else f"{promise.value:.2f}{promise.unit}"
    return [promise.subject, measured, f"{'≥' if promise.at_least else '≤'} {promise.goal:g}{promise.unit}", promise.verdict]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [columns, *rows]
    rendered = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rendered[0], f"|{'---|' * len(columns)}", *rendered[1:]])


def save_plot(results: Results, path: Path) -> bool:
    """Bars of texts/s by server and load; False where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    servers = _servers(results)
    loads = [(measured.connections, measured.texts_per_request) for measured in servers[0].loads] if servers else []
    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    width = 0.8 / max(1, len(servers))
    for place, server in enumerate(servers):
        found = [server.load(connections=connections, texts_per_request=size) for connections, size in loads]
        heights = [report.texts_per_s if report else 0.0 for report in found]
        bars = axes.bar([x + place * width for x in range(len(loads))], heights, width, label=server.name)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    for number, forward in enumerate(results.forwards):
        axes.axhline(forward.texts_per_s, color="grey", linewidth=0.8, linestyle=("--", ":", "-.")[number % 3],
                     label=f"bare packed forward, {forward.dtype}")  # fmt: skip
    axes.set_xticks([x + width * (len(servers) - 1) / 2 for x in range(len(loads))], [load_name(*load) for load in loads])
    axes.set_ylabel("texts/s")
    axes.set_title(f"{results.machine.get('accelerator', results.machine['cpu'])}, {results.machine['cores']} cores")
    axes.legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


def load_name(connections: int, texts_per_request: int) -> str:
    """As under a plot's bars."""
    size = "single texts" if texts_per_request == 1 else f"{texts_per_request} texts a request"
    return f"{connections} connection{'s' if connections > 1 else ''},\n{size}"
