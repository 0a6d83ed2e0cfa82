"""Ends a worker whose forward never ends, so that its supervisor replaces it."""

import faulthandler
import logging
import time
from collections.abc import Callable
from functools import partial

from service.worker import threads

log = logging.getLogger("valence.worker")
CHECK_S = 1.0


def watch(busy_since: Callable[[], float | None], *, limit_s: float) -> None:
    """Starts a thread that ends this process once it has been busy with one batch for `limit_s` seconds.

    `busy_since` gives the monotonic time at which the batch began, or None while idle. The process is ended by faulthandler's
    timer, a thread in C that our thread sets again and again. It also fires if a forward never gives Python's lock back, and it
    leaves the stack of every thread in the log."""
    threads.start(partial(_keep_winding, busy_since, limit_s), name="watchdog")


def _keep_winding(busy_since: Callable[[], float | None], limit_s: float) -> None:
    while True:
        since = busy_since()
        left_s = limit_s if since is None else since + limit_s - time.monotonic()
        if left_s <= 0:
            log.error("one batch has run for %g s: the worker ends, and is replaced; it hangs here:", limit_s)
        faulthandler.dump_traceback_later(max(left_s, 0.001), exit=True)
        time.sleep(min(CHECK_S, limit_s / 4))
