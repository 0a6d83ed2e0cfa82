"""A benchmark's results as markdown tables."""

from collections.abc import Sequence

from load_tests.bench.promises import Promise, promises
from load_tests.bench.results import Measured, Results, ServerResult, table

LATENCY_COLUMNS = ["p50 ms", "p90 ms", "p99 ms", "p99.9 ms"]
TAIL_COLUMNS = ["errors", "generator CPU", "other cores busy"]
LOAD_COLUMNS = ["server", "connections", "texts a request", "requests/s", "texts/s", *LATENCY_COLUMNS, *TAIL_COLUMNS]
OPEN_COLUMNS = ["server", "of its saturation", "offered requests/s", "answered requests/s", *LATENCY_COLUMNS, *TAIL_COLUMNS]


def to_markdown(results: Results) -> str:
    """Sections without content are left out."""
    parts = [
        f"# Benchmark, {results.date}",
        f"`{results.command}`",
        table(["", ""], [[name, value] for name, value in {**results.machine, **results.versions, **results.setup}.items()]),
        *section("Promises", ["", "measured", "goal", ""], [promise_row(promise) for promise in promises(results)]),
        *section(
            "Not measured",
            ["server", "settings", "reason"],
            [[missing.name, missing.settings, short(missing.reason)] for missing in results.unmeasured],
        ),
        *section("Servers", LOAD_COLUMNS, [row for server in results.servers for row in load_rows(server)]),
        *section(
            "Answers, against a float32 forward of each text alone",
            ["server", "texts", "max difference", "mean difference", "equal top labels", ""],
            [answer_row(server) for server in results.servers],
        ),
        *section(
            "Open loop: Poisson arrivals, latency from when a request was due",
            OPEN_COLUMNS,
            [row for server in results.servers for row in open_rows(server)],
        ),
        *section(
            "Servers: how they were started",
            ["server", "python ...", "versions", "idle CPU, of one core"],
            [start_row(server) for server in results.servers],
        ),
        *section(
            "Bare packed forward (no HTTP)",
            ["dtype", "texts/s", "one text, p50 ms"],
            [[forward.name, f"{forward.texts_per_s:.0f}", f"{forward.one_text_p50_ms:.2f}"] for forward in results.forwards],
        ),
        *section(
            "How configurations were chosen",
            ["server", "settings", *LOAD_COLUMNS[1:]],
            [[server.name, server.settings, *row[1:]] for server in results.grid for row in load_rows(server)],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def section(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Heading and table; nothing without rows."""
    return [f"## {title}", table(columns, rows)] if rows else []


def short(reason: str) -> str:
    """One line for a cell of a table: the end of a log, since that says what went wrong."""
    return " ".join(reason.replace("|", "/").split())[-400:]


def load_rows(server: ServerResult) -> list[list[str]]:
    """A row for each closed loop, as `LOAD_COLUMNS`."""
    return [
        [
            server.name,
            str(measured.connections),
            str(measured.texts_per_request),
            *(f"{value:.1f}" for value in (measured.report.requests_per_s, measured.report.texts_per_s)),
            *tail(measured),
        ]
        for measured in server.loads
    ]


def open_rows(server: ServerResult) -> list[list[str]]:
    """A row for each rate, as `OPEN_COLUMNS`."""
    return [
        [
            server.name,
            f"{100 * (measured.rate or 0.0) / server.saturation:.0f}%",
            f"{measured.rate:.1f}",
            f"{measured.report.requests_per_s:.1f}",
            *tail(measured),
        ]
        for measured in server.open_loads
    ]


def tail(measured: Measured) -> list[str]:
    """The columns that every load has."""
    report = measured.report
    return [
        *(f"{value:.1f}" for value in (report.p50_ms, report.p90_ms, report.p99_ms, report.p999_ms)),
        ", ".join(f"{count} {name}" for name, count in report.errors.items()) or "0",
        f"{100 * report.generator_cpu:.0f}%",
        f"{measured.busy_cores_before:.2f}",
    ]


def answer_row(server: ServerResult) -> list[str]:
    check = server.answers
    figures = [f"{check.max_difference:.2g}", f"{check.mean_difference:.2g}", f"{check.equal_labels:.1%}"]
    return [server.name, str(check.texts), *figures, check.failure or "good"]


def start_row(server: ServerResult) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in server.versions.items())
    idle = "-" if server.idle_cpu_percent is None else f"{server.idle_cpu_percent:.1f}%"
    return [server.name, f"`{server.arguments}`", versions, idle]


def promise_row(promise: Promise) -> list[str]:
    measured = "-" if promise.value is None else f"{promise.value:.2f}{promise.unit}"
    return [promise.subject, measured, f"{'≥' if promise.at_least else '≤'} {promise.goal:g}{promise.unit}", promise.verdict]
