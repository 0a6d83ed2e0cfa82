"""`python -m service.measure.request_path`: the files that one `/predict` passes, in order, and how many lines of each ran.

It starts a service of its own whose HTTP process and worker are traced line by line, and sends one request again and again. It
prints the shortest trace: no background task happened to run during that request.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from service.measure import line_tracer

ROOT = Path(__file__).parents[2]
START_S = 300.0
WARM_UP, REPEATS = 20, 20
BODY = json.dumps({"inputs": "A wonderful surprise, funny and moving."}).encode()


class Line(NamedTuple):
    """One line that ran. `at_ns` is on the monotonic clock, which both processes share."""

    at_ns: int
    process: str
    file: str
    number: int


class Visit(NamedTuple):
    """Lines of one file that ran one after another."""

    process: str
    file: str
    lines: frozenset[tuple[str, int]]


def main() -> None:
    """Prints the visits in order, then the lines of each file, then the sums."""
    options = parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        visits = shortest(Path(folder), options)
    shown = [visit for visit in visits if visit.file.startswith("service/")]
    for visit in visits if options.all else shown:
        print(f"{visit.process:15} {len(visit.lines):4} {visit.file}")
    lines = frozenset[tuple[str, int]]().union(*(visit.lines for visit in shown))
    print()
    for file, found in groupby(sorted(lines), key=lambda line: line[0]):
        print(f"{len(list(found)):20} {file}")
    print(f"\n{len(lines)} lines of {len({file for file, _ in lines})} files, {switches(shown)} switches between files")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m service.measure.request_path", description=__doc__)
    result.add_argument("--model", type=Path, default=Path("models/checkpoints/sentiment-lstm"), help="checkpoint folder")
    result.add_argument("--port", type=int, default=18431)
    result.add_argument("--all", action="store_true", help="also the files of models/ and tokenizers_store/")
    return result


def shortest(folder: Path, options: argparse.Namespace) -> list[Visit]:
    """The visits of the request that ran the fewest lines."""
    command = [sys.executable, "-m", "service", "--models", f"model={options.model}", "--port", str(options.port)]
    command += ["--workers-per-device", "1", "--http-processes", "1", "--import-modules", line_tracer.__name__]
    environment = {**os.environ, "TMPDIR": str(folder)}
    url = f"http://127.0.0.1:{options.port}"
    with subprocess.Popen([*command, "--device", "cpu", "--log-level", "warning"], cwd=ROOT, env=environment) as service:
        try:
            wait_until_ready(service, f"{url}/ready")
            for _ in range(WARM_UP):
                predict(url)
            traces = [traced(folder, url) for _ in range(REPEATS)]
        finally:
            service.terminate()
    return min(traces, key=lambda visits: sum(len(visit.lines) for visit in visits))


def traced(folder: Path, url: str) -> list[Visit]:
    """The visits of one request."""
    processes = [int(path.suffix[1:]) for path in folder.glob("*/traced.*")]
    for process in processes:
        os.kill(process, signal.SIGUSR1)
    time.sleep(0.1)
    predict(url)  # what waits for a request begins to wait anew, and is traced from then on
    time.sleep(0.02)
    begun_at_ns = time.monotonic_ns()
    predict(url)
    time.sleep(0.02)
    for process in processes:
        os.kill(process, signal.SIGUSR1)
    time.sleep(0.2)
    lines = [Line(*line) for path in folder.glob("*/traced.*") for line in json.loads(path.read_text() or "[]")]
    return list(visits_of(sorted(line for line in lines if line.at_ns > begun_at_ns)))


def visits_of(lines: Sequence[Line]) -> Iterator[Visit]:
    """The visits: lines of one file and process that follow each other are one visit.

    >>> [visit.file for visit in visits_of([Line(1, "http", "a.py", 3), Line(2, "http", "a.py", 4), Line(3, "http", "b.py", 1)])]
    ['a.py', 'b.py']
    """
    for (process, file), found in groupby(lines, key=lambda line: (line.process, line.file)):
        yield Visit(process, file, frozenset((file, line.number) for line in found))


def switches(visits: Sequence[Visit]) -> int:
    """How often the file changes."""
    return sum(1 for _ in groupby(visits, key=lambda visit: visit.file)) - 1


def predict(url: str) -> None:
    request = urllib.request.Request(f"{url}/predict", data=BODY, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        response.read()


def wait_until_ready(service: "subprocess.Popen[bytes]", url: str) -> None:
    ends_at = time.monotonic() + START_S
    while service.poll() is None and time.monotonic() < ends_at:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the service did not come up; its log above says why")


if __name__ == "__main__":
    main()
