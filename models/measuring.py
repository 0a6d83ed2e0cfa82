"""What a piece of work costs: time, and the peak of memory, in a process of its own."""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Spent:
    """On the CPU: processor time, which other programs disturb least, and by how much the peak of resident memory rose. On CUDA:
    time by the clock, and by how much the allocator's peak rose."""

    time_s: float
    memory_mib: float


def in_new_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a module's function in a fresh process, whose memory nothing has touched."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args, kwargs)


def measured(work: Callable[[], T], *, device: str) -> tuple[T, Spent]:
    """What `work` returns, and what it cost; `device`: "cpu" or "cuda"."""
    on_cuda = device == "cuda"
    before = torch.cuda.memory_allocated() / 2**20 if on_cuda else resident_mib("VmRSS")
    peak_anew(on_cuda=on_cuda)
    started_at = now_s(device)
    result = work()
    time_s = now_s(device) - started_at
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_cuda else resident_mib("VmHWM")
    return result, Spent(time_s, peak - before)


def now_s(device: str) -> float:
    """Seconds; only their differences mean something."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def peak_anew(*, on_cuda: bool = False) -> None:
    """Forgets the peak so far."""
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident_mib(field: str) -> float:
    """A line of the kernel's account of this process: VmRSS is held now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
