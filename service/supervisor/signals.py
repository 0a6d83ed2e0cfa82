"""Stops the service on SIGTERM and Ctrl-C: requests in flight are answered, and no process is left."""

import logging
import multiprocessing
import os
import signal
import time
from types import FrameType

from service.supervisor.litserve_server import Supervisor

log = logging.getLogger("valence")


def stop_on_signals(server: Supervisor, *, drain_s: float) -> None:
    """Sets the handlers of SIGTERM and Ctrl-C.

    SIGTERM makes `/ready` answer 503 and every answer the last of its connection. It gives load balancers and clients `drain_s`
    seconds to see that, and then does what Ctrl-C does: no more connections are taken, and what is in flight is answered.
    LitServe on its own would exit at once and leave its children serving the port."""
    main_pid = os.getpid()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        # The HTTP processes inherit this handler. uvicorn's own comes first there, and raises the signal again when it is done.
        if os.getpid() != main_pid:
            return
        if signum == signal.SIGTERM and not server.draining:
            log.info("SIGTERM: not ready any more; requests are taken for another %g s", drain_s)
            server.draining.set()
            time.sleep(drain_s)  # a second signal ends the wait at once
        server.draining.set()
        server.stop_taking()
        log.info("stopping: requests in flight are answered first")
        # LitServe's monitor thread would log a stack when it finds its manager gone
        logging.getLogger("litserve.server").setLevel(logging.CRITICAL)
        signal.default_int_handler(signum, frame)

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)


def stop_children() -> None:
    """Kills the children that LitServe leaves running if its start is interrupted or fails. After an orderly stop there are none.

    SIGTERM would not end them: a forked child has our handler, which does nothing there."""
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    for child in children:
        child.join(timeout=5)
