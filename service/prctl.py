"""What the kernel is told of a process: its name, and to end it with its parent. Linux only; elsewhere nothing happens."""

import ctypes
import signal
import sys

# From linux/prctl.h.
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15


def end_with_parent() -> None:
    """Has the kernel kill this process once its parent is gone, so that nothing keeps a port or a GPU when the main process is
    killed outright and can't stop its children."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def name_process(name: str) -> None:
    """What `top` and `pgrep` show for the calling thread, and for its process if that is its first; at most 15 characters."""
    _prctl(PR_SET_NAME, name.encode())


def _prctl(option: int, value: int | bytes) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(option, value)
