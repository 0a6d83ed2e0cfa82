"""What a benchmark ran on: processor, memory, versions, commit."""

import os
import platform
import re
import shutil
import statistics
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import psutil

from load_tests.servers import ROOT

PACKAGES = ("torch", "transformers", "tokenizers", "litserve", "uvicorn", "uvloop", "pydantic")


def describe_machine() -> dict[str, str]:
    """Processor, cores, memory, accelerator if there is one, system."""
    found = {
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "load_average_before": f"{os.getloadavg()[0]:.2f}",
        "system": f"{platform.system()} {platform.release()}",
    }
    return {**found, "accelerator": ", ".join(gpu_names())} if gpu_names() else found


@cache
def gpu_names() -> tuple[str, ...]:
    """NVIDIA GPUs; none where there is no driver."""
    return tuple(_output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines())


class GpuWatch:
    """Reads the first GPU's utilisation while it is open."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "GpuWatch":
        if gpu_names():
            command = "nvidia-smi --id=0 --query-gpu=utilization.gpu --format=csv,noheader,nounits --loop-ms=200"
            self._process = subprocess.Popen(command.split(), stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            printed = self._process.communicate()[0]
            self._samples = [float(line) for line in printed.splitlines() if line.strip().isdigit()]

    def median_percent(self) -> float | None:
        """Over the whole load; a median, so that its start and end do not count. None without a GPU."""
        return statistics.median(self._samples) if self._samples else None


def describe_versions() -> dict[str, str]:
    """Python, packages, and the commit of this repository; `+changes` if the working tree differs from it."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    commit = _output("git", "rev-parse", "--short=12", "HEAD") or "unknown"
    changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    return {**found, "commit": commit + ("+changes" if changed else "")}


def slug(machine: dict[str, str]) -> str:
    """A file name's part: accelerator or processor, and cores.

    >>> slug({"cpu": "Intel(R) Xeon(R) Processor @ 2.80GHz", "cores": "2"})
    'intel-xeon-2.80ghz-2-cores'
    """
    name = machine.get("accelerator", machine["cpu"]).split(",")[0].lower()
    words = [word for word in re.findall(r"[a-z0-9.]+", re.sub(r"\((r|tm)\)", "", name)) if word not in ("processor", "cpu")]
    return f"{'-'.join(words)}-{machine['cores']}-cores"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _output(*command: str) -> str:
    """What a command prints; nothing where there is no such command or it fails."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
