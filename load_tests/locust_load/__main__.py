"""`make load`: starts the service, lets Locust load it, stops it. The exit status is Locust's: not 0 if a bound was missed.

Flags that this command does not know go on to Locust:

    python -m load_tests.locust_load --scenario spike --users 64 --seconds 30 --slo-p95-ms 500 --pace 2
"""

import argparse
import contextlib
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from load_tests.locust_load.scenarios import SCENARIOS, table
from load_tests.servers import ROOT, ServerError, exit_on_sigterm, running

RESULTS = ROOT / "load_tests" / "results" / "locust"
LOCUSTFILE = Path(__file__).parent / "locustfile.py"
# When users leave, during a scenario or at its end, they may finish the request they are at.
STOP_TIMEOUT_S = 30


def main() -> int:
    """0: all bounds were kept; 1: one was missed, or something failed; 2: the service did not start."""
    options, locust_arguments = parser().parse_known_args()
    exit_on_sigterm()
    results = (options.results / options.scenario).resolve()
    results.mkdir(parents=True, exist_ok=True)
    url = options.url or f"http://127.0.0.1:{options.port}"
    try:
        with contextlib.ExitStack() as stack:
            if not options.url:
                arguments = ["-m", "service", "--host", "127.0.0.1", "--port", str(options.port), *shlex.split(options.service)]
                print(f"starting python {shlex.join(arguments)}", flush=True)
                stack.enter_context(running(arguments, ready_url=f"{url}/ready", log=results / "service.log"))
            status = subprocess.run(locust_command(url, options, results, locust_arguments), cwd=ROOT, check=False).returncode
    except ServerError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"report: {results / 'report.html'}; bounds {'missed' if status else 'kept'}")
    return status


def parser() -> argparse.ArgumentParser:
    """This command's own flags."""
    result = argparse.ArgumentParser(
        prog="python -m load_tests.locust_load",
        allow_abbrev=False,
        description=f"{__doc__}\nscenarios:\n{table()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--scenario", choices=list(SCENARIOS), default="steady")
    result.add_argument("--users", type=int, default=64)
    result.add_argument("--seconds", type=int, help="how long; unset: an hour for soak, half a minute for the others")
    result.add_argument("--port", type=int, default=8000, help="where to start the service")
    result.add_argument("--url", help="load the service that runs here, and start none")
    result.add_argument("--service", default="", help="more flags of the service, as one string: --service='--dtype bfloat16'")
    result.add_argument("--results", type=Path, default=RESULTS, help="where a folder for the scenario is made")
    return result


def locust_command(url: str, options: argparse.Namespace, results: Path, more: Sequence[str]) -> list[str]:
    """Locust's command line: its summary goes to the terminal, its report and tables to `results`."""
    seconds = options.seconds or SCENARIOS[options.scenario].seconds
    return [
        *(sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--host", url, "--headless", "--only-summary"),
        *("--scenario", options.scenario, "--users", str(options.users), "--run-time", f"{seconds}s"),
        *("--stop-timeout", str(STOP_TIMEOUT_S), "--html", str(results / "report.html"), "--csv", str(results / "run")),
        *more,
    ]


if __name__ == "__main__":
    sys.exit(main())
