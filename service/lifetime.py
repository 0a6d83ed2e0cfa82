"""A process that ends with the one that made it."""

import ctypes
import ctypes.util
import signal
import sys

# From linux/prctl.h.
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Has the kernel kill this process once its parent is gone, so that nothing keeps a port or a GPU when the main process is
    killed outright and can't stop its children. Linux only; elsewhere nothing happens."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(ctypes.util.find_library("c")).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
