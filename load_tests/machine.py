"""What a benchmark ran on: processor, memory, versions, commit."""

import os
import platform
import re
import shutil
import subprocess
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
    accelerator = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return {**found, "accelerator": accelerator.replace("\n", ", ")} if accelerator else found


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
    """What a command prints; nothing if it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
