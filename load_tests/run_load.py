"""`make load`: starts the service, lets Locust load it, stops it. The exit status is Locust's: not 0 if a bound was missed.

What this command does not know goes on to Locust:

    python -m load_tests.run_load --users 64 --seconds 30 --slo-p95-ms 500 --pace 2
"""

import argparse
import contextlib
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from load_tests.servers import ROOT, ServerError, exit_on_sigterm, running

RESULTS = Path(__file__).parent / "results" / "locust"
LOCUSTFILE = Path(__file__).parent / "locustfile.py"


def main() -> int:
    """0: all bounds were kept; 1: one was missed, or something failed; 2: the service did not start."""
    options, locust_arguments = parser().parse_known_args()
    exit_on_sigterm()
    RESULTS.mkdir(parents=True, exist_ok=True)
    url = options.url or f"http://127.0.0.1:{options.port}"
    try:
        with contextlib.ExitStack() as stack:
            if not options.url:
                arguments = ["-m", "service", "--host", "127.0.0.1", "--port", str(options.port), *shlex.split(options.service)]
                print(f"starting python {shlex.join(arguments)}", flush=True)
                stack.enter_context(running(arguments, ready_url=f"{url}/ready", log=RESULTS / "service.log"))
            status = locust(url, users=options.users, seconds=options.seconds, more=locust_arguments)
    except ServerError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"report: {(RESULTS / 'report.html').relative_to(ROOT)}; bounds {'missed' if status else 'kept'}")
    return status


def parser() -> argparse.ArgumentParser:
    """The command line, less what Locust takes."""
    result = argparse.ArgumentParser(prog="python -m load_tests.run_load", allow_abbrev=False, description=__doc__)
    result.add_argument("--users", type=int, default=64, help="all of them arrive in the first second")
    result.add_argument("--seconds", type=int, default=30)
    result.add_argument("--port", type=int, default=8000, help="where to start the service")
    result.add_argument("--url", help="load the service that runs here, and start none")
    result.add_argument("--service", default="", help="more flags of the service, as one string: --service='--dtype bfloat16'")
    return result


def locust(url: str, *, users: int, seconds: int, more: Sequence[str]) -> int:
    """Locust's exit status; its summary goes to the terminal, its report and tables to `RESULTS`."""
    command = [
        *(sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--host", url, "--headless", "--only-summary"),
        *("--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s"),
        *("--html", str(RESULTS / "report.html"), "--csv", str(RESULTS / "run")),
        *more,
    ]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
