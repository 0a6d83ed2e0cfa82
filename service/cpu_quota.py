"""The CPU quota of this process: the time of so many cores, by the kernel's control groups.

`docker run --cpus`, Compose's `cpus:` and a CPU limit of Kubernetes are quotas. The kernel lets the process run on every core,
but not for longer. By its affinity a container of 2 CPUs on 64 cores has 64.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MEMBERSHIP = Path("proc/self/cgroup")
GROUPS = Path("sys/fs/cgroup")


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The least quota, in cores, of this process' groups and of those above them. None where there is none.

    `root`: the folder that holds /proc and /sys."""
    return min((quota for folder in _folders(root) for quota in _quotas(folder)), default=None)


def _folders(root: Path) -> Iterator[Path]:
    """Where quotas may be. A container may see its group as the root of the tree, though its membership tells the whole path."""
    try:
        lines = (root / MEMBERSHIP).read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        inside = [part for part in path.split("/") if part not in ("", "..")]
        for hierarchy in [controllers, "cpu"] if controllers else ["", "unified"]:
            for depth in range(len(inside), -1, -1):
                yield root / GROUPS / hierarchy / Path(*inside[:depth])


def _quotas(folder: Path) -> Iterator[float]:
    """Version 2 has quota and period in one file, version 1 in two."""
    with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        quota, period = (folder / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:  # -1: none
            yield int(quota) / int(period)
