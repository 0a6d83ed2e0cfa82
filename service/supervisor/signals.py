"""How the service stops: on SIGTERM and Ctrl-C, with what is in flight answered and no process left."""

import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import FrameType

from service.supervisor.litserve_server import Supervisor

log = logging.getLogger("valence")


def stop_on_signals(server: Supervisor, *, draining: Path, drain_s: float) -> None:
    """SIGTERM has `/ready` answer 503, gives load balancers `drain_s` to see it, and then does what Ctrl-C does. LitServe on its
    own would exit at once and leave its children serving the port."""
    main_pid = os.getpid()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        # The HTTP processes inherit this handler; uvicorn puts its own in front, and raises the signal again when it is done.
        if os.getpid() != main_pid:
            return
        if signum == signal.SIGTERM and not draining.exists():
            log.info("SIGTERM: not ready any more; requests are taken for another %g s", drain_s)
            draining.touch()
            time.sleep(drain_s)  # a second signal ends it at once
        server.is_stopping = True
        log.info("stopping: requests in flight are answered first")
        # LitServe's monitor thread would log a stack when it finds its manager gone
        logging.getLogger("litserve.server").setLevel(logging.CRITICAL)
        signal.default_int_handler(signum, frame)

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)


def stop_children() -> None:
    """Ends what LitServe leaves running where it is interrupted or fails while it starts; after an orderly stop, nothing. Killed,
    since a forked child has our handler, which lets SIGTERM pass."""
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    for child in children:
        child.join(timeout=5)
