"""`python -m service`: serves the shipped checkpoints; `--help` lists every setting."""

import logging
import os
import signal
import sys
from types import FrameType

from service.runtime_dir import RuntimeDir

log = logging.getLogger("valence")


def main() -> int:
    """Runs the service until it stops, and gives the exit status.

    0: an orderly stop. 1: no worker started. 2: a setting, a model or a key is wrong; one sentence of the log says which."""
    runtime_dir = RuntimeDir.create()
    _end_on_signals(runtime_dir)
    try:
        return _run(runtime_dir)
    finally:
        runtime_dir.remove()


def _end_on_signals(runtime_dir: RuntimeDir) -> None:
    """Makes SIGTERM and Ctrl-C end this process at once, until the server has handlers of its own.

    There is no other process to stop yet. Process 1 of a container has no default action for a signal: without these handlers a
    stop during the seconds of the imports would be lost, and the container killed at the end of its grace time. The handler
    raises no exception, since a callback of the import system may swallow it."""

    def end(signum: int, frame: FrameType | None) -> None:
        runtime_dir.remove()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _run(runtime_dir: RuntimeDir) -> int:
    # prometheus_client reads the first when it is imported; tokenizers must find the second before its processes are forked.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(runtime_dir.path)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Read by the workers' torch. oneDNN compiles an operator for each number of rows that it meets. By default it keeps 1,024 of
    # them, which grew a worker by 200 MB. 512 hold all sizes that the packs of a BERT and two LSTMs are filled up to. With only
    # 8, a lone text waited for its operators to be compiled: 3.3 -> 5.6 ms by `sentiment-lstm`, 8 -> 13 ms by `sentiment-bert`
    # in bfloat16.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "512")
    # Imported only here: the signal handlers are set by now, and `--help` does not wait for torch.
    from pydantic import ValidationError
    from pydantic_settings import CliApp

    from service.settings import Settings

    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:  # without the values: one may be a key
        for fault in error.errors(include_url=False, include_input=False):
            name = str(fault["loc"][0]) if fault["loc"] else "settings"
            print(f"--{name.replace('_', '-')} (VALENCE_{name.upper()}): {fault['msg']}", file=sys.stderr)
        return 2
    from service.edge.keys import KeysError
    from service.logs import configure_logging
    from service.measure.tuning import tuned
    from service.served.catalog import CatalogError
    from service.supervisor.server import serve

    try:
        configure_logging(settings.log_level, settings.log_format)
        serve(tuned(settings), runtime_dir=runtime_dir)
    except (CatalogError, KeysError) as error:
        log.error("%s", error)
        return 2
    except RuntimeError as error:
        if runtime_dir.refusal.exists():
            log.error("%s", runtime_dir.refusal.read_text(encoding="utf-8"))
            return 2
        log.error("%s; the worker's log above says why", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
