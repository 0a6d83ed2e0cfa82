"""`python -m load_tests.revisions REVISION`: this working tree's service against that of another revision, side by side.

Both serve one checkpoint on this machine, and each load goes to the one and the other by turns, several rounds long. It prints
the medians and their ratio, and what a request costs the HTTP processes in CPU time. Nothing else should run meanwhile.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from load_tests.bench.results import table
from load_tests.generator.load import DEFAULT_TEXTS, Load, run
from load_tests.servers import ROOT, ServerError, exit_on_sigterm, running
from load_tests.texts import user_texts

# (connections, texts a request)
LOADS = ((1, 1), (64, 1), (256, 1), (8, 32))
HEAD = ["load", "before", "now", "now / before", "CPU of HTTP before, us a request", "now", "now / before"]


@dataclass(frozen=True)
class Measured:
    """One load on one service."""

    texts_per_s: float
    http_us: float


def main() -> int:
    """0, or 1 if a service did not start."""
    options = parser().parse_args()
    exit_on_sigterm()
    try:
        print(table(HEAD, compare(options)))
    except (ServerError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m load_tests.revisions", description=__doc__)
    result.add_argument("revision", help="what git calls the other one: a commit, tag or branch")
    result.add_argument("--model", type=Path, default=ROOT / "models/checkpoints/sentiment-lstm")
    result.add_argument("--dtype", default="float32")
    result.add_argument("--rounds", type=int, default=5, help="of each load on each service")
    result.add_argument("--seconds", type=float, default=4.0, help="of each load")
    result.add_argument("--port", type=int, default=8110, help="and the next one")
    return result


def compare(options: argparse.Namespace) -> list[list[str]]:
    """A row for each load."""
    texts = user_texts(DEFAULT_TEXTS)
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="valence-revisions-")))
        before = stack.enter_context(checked_out(options.revision, folder / "before"))
        services = [
            stack.enter_context(service(tree, port, options, log=folder / f"{port}.log"))
            for port, tree in enumerate((before, ROOT), start=options.port)
        ]
        for connections, count in LOADS:
            found: list[list[Measured]] = [[], []]
            for _ in range(options.rounds):
                for place, process in enumerate(services):
                    url = f"http://127.0.0.1:{options.port + place}/predict"
                    load = Load(url=url, connections=connections, texts_per_request=count, seconds=options.seconds)
                    found[place].append(measure(process, load, texts))
            rows.append([f"{connections} connections, {count} a request", *columns(*found)])
            print("; ".join(rows[-1]), file=sys.stderr)
    return rows


def columns(before: Sequence[Measured], now: Sequence[Measured]) -> Iterator[str]:
    """Medians and their ratio: texts/s, then microseconds.

    >>> list(columns([Measured(100, 50)], [Measured(110, 40)]))
    ['100', '110', '1.10', '50', '40', '0.80']
    """
    for values in (
        ([m.texts_per_s for m in before], [m.texts_per_s for m in now]),
        (
            [m.http_us for m in before],
            [m.http_us for m in now],
        ),
    ):
        first, second = map(statistics.median, values)
        yield from (f"{first:.0f}", f"{second:.0f}", f"{second / first:.2f}")


def measure(process: psutil.Process, load: Load, texts: Sequence[str]) -> Measured:
    """One load, with the CPU time of the HTTP processes over it; the warm-up is part of that time and of its requests."""
    http = [child for child in process.children(recursive=True) if child.name() == "valence-http"]
    before_s = sum(sum(child.cpu_times()[:2]) for child in http)
    report = run(load, texts)
    spent_s = sum(sum(child.cpu_times()[:2]) for child in http) - before_s
    requests_per_s = report.texts_per_s / load.texts_per_request
    return Measured(report.texts_per_s, 1e6 * spent_s / (requests_per_s * (load.seconds + load.warmup_s)))


@contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """A working tree of a revision, gone at the end."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), revision], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


@contextmanager
def service(tree: Path, port: int, options: argparse.Namespace, *, log: Path) -> Iterator[psutil.Process]:
    """The service of a tree."""
    arguments = ["-m", "service", "--host", "127.0.0.1", "--port", str(port), "--dtype", options.dtype]
    arguments += ["--models", f"model={options.model.resolve()}", "--tokenizers-dir", str(ROOT / "tokenizers_store")]
    with running(arguments, ready_url=f"http://127.0.0.1:{port}/ready", log=log, folder=tree) as process:
        yield process


if __name__ == "__main__":
    sys.exit(main())
