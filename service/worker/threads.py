"""Threads that a worker can't do without."""

import logging
import os
import threading
from collections.abc import Callable

log = logging.getLogger("valence.worker")


def start(work: Callable[[], None], *, name: str) -> None:
    """Starts a thread that works as long as the process. However it ends, the process ends with it, and is replaced.

    A worker whose I/O thread alone had died would live on and never be ready."""

    def run() -> None:
        try:
            work()
        finally:  # a second thread can't end the process in an orderly way
            log.critical("the thread %s ended, and the worker ends with it", name, exc_info=True)
            os._exit(1)

    threading.Thread(target=run, name=name, daemon=True).start()
