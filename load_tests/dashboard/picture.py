"""A picture of the dashboard under load.

Starts the service and Prometheus, sends a minute of mixed requests, and draws what Prometheus then knows. Needs the command
`prometheus` (Debian: the package of that name) and matplotlib.

    python -m load_tests.dashboard.picture --picture docs/dashboard.png
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from load_tests.dashboard.panels import Window, draw_dashboard
from load_tests.generator.load import Load, measure
from load_tests.servers import ROOT, exit_on_sigterm, running
from load_tests.texts import user_texts

DASHBOARD = ROOT / "deploy/grafana/dashboards/valence.json"
# Few, so that the burst below is an overload.
MAX_CONCURRENT_REQUESTS = 48
PROMETHEUS = {"global": {"scrape_interval": "1s"}}


def main() -> int:
    """0, or 2 if Prometheus is missing."""
    options = parser().parse_args()
    if not shutil.which("prometheus"):
        print("prometheus is not installed (Debian: apt-get install prometheus)", file=sys.stderr)
        return 2
    exit_on_sigterm()
    flags = ["--host", "127.0.0.1", "--max-concurrent-requests", str(MAX_CONCURRENT_REQUESTS), "--http-processes", "1"]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = ["-m", "service", "--port", str(port), *flags]
        stack.enter_context(running(command, ready_url=f"{url}/ready", log=Path(folder) / "service.log"))
        prometheus = stack.enter_context(scraping(f"127.0.0.1:{port}", Path(folder)))
        start = time.time()
        asyncio.run(send(url, options.seconds))
        window = Window(prometheus, start, time.time())
        title = f"The dashboard's queries over {options.seconds:.0f} s of mixed load, answered by Prometheus, drawn by matplotlib"
        draw_dashboard(json.loads(DASHBOARD.read_text(encoding="utf-8")), window, options.picture, title=title)
    print(options.picture)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m load_tests.dashboard.picture", description=__doc__)
    result.add_argument("--picture", type=Path, default=ROOT / "docs/dashboard.png")
    result.add_argument("--seconds", type=float, default=60)
    return result


async def send(url: str, seconds: float) -> None:
    """Single texts, batches and invalid requests, each at a set pace. In the second half a burst comes on top, which is more than
    the service takes and lasts a fifth of the time."""
    texts = user_texts(4096)
    steady = Load(url=f"{url}/predict", connections=16, seconds=seconds, warmup_s=0, rate=30)
    batches = Load(
        url=f"{url}/predict", connections=4, seconds=seconds, warmup_s=0, rate=4, texts_per_request=8, model="sentiment-lstm"
    )
    wrong = Load(url=f"{url}/predict", connections=1, seconds=seconds, warmup_s=0, rate=2, extra_fields={"truncate": "x"})
    burst = Load(url=f"{url}/predict", connections=96, seconds=seconds / 5, warmup_s=0)
    await asyncio.gather(*(measure(load, texts) for load in (steady, batches, wrong)), later(burst, texts, delay_s=seconds / 2))


async def later(load: Load, texts: list[str], *, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    await measure(load, texts)


@contextlib.contextmanager
def scraping(target: str, folder: Path) -> Iterator[str]:
    """The address of a Prometheus that scrapes `target` every second."""
    jobs = [{"job_name": "valence", "static_configs": [{"targets": [target]}]}]
    (folder / "prometheus.yml").write_text(json.dumps({**PROMETHEUS, "scrape_configs": jobs}), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        time.sleep(5)  # Prometheus loads its database, then scrapes the idle service
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
