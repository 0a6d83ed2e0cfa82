"""Tells the kernel a process's name, and to end a process with its parent. On Linux only; elsewhere nothing happens."""

import ctypes
import signal
import sys

# From linux/prctl.h.
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15


def end_with_parent() -> None:
    """Has the kernel kill this process once its parent is gone.

    A main process that is killed outright can't stop its children: without this they would keep the port and the GPU."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def name_process(name: str) -> None:
    """Sets what `top` and `pgrep` show for the calling thread, and for its process if it is the first thread.

    At most 15 characters."""
    _prctl(PR_SET_NAME, name.encode())


def _prctl(option: int, value: int | bytes) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(option, value)
