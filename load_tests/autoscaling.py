"""A day of traffic with a spike, and how many pods an autoscaler would run: on requests in flight, on their logarithm, on CPU.

    python -m load_tests.autoscaling                                    # a table over thresholds
    python -m load_tests.autoscaling --plot docs/autoscaling.png

A calculation in steps of a second, no load on anything. What a pod does comes from a record of the benchmark: its open loops say
p50 and p99 at a rate, its 64 connections the capacity. The autoscaler is Kubernetes' HorizontalPodAutoscaler as its
documentation has it (https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/): desired =
ceil(current x metric / target), a tolerance of 0.1, a stabilisation window, policies. On CPU it takes pods that are not ready for
idle ones when it scales up, as the documentation says too.

Kind to scaling on CPU: a pod's CPU is taken for its share of the capacity. A real one reads higher at low rates, where batches
are small, and its neighbours' noise is in it.
"""

import argparse
import json
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "load_tests/results/amd-zen5-2-cores-2026-11-27.json"
DAY_S = 86_400
SYNC_S = 15
TOLERANCE = 0.1


@dataclass(frozen=True)
class Pod:
    """What one pod does. `curve`: (requests/s, p50 in s, p99 in s), rates rising; `limit`: requests in flight, above it 429."""

    capacity: float
    curve: tuple[tuple[float, float, float], ...]
    limit: int = 512

    def latencies_s(self, rate: float) -> tuple[float, float]:
        """p50 and p99 of a pod that keeps up with a rate."""
        if rate <= self.curve[0][0]:
            return self.curve[0][1:]
        for (low, *before), (high, *after) in pairwise(self.curve):
            if rate <= high:
                share = (rate - low) / (high - low)
                p50, p99 = (old + share * (new - old) for old, new in zip(before, after, strict=True))
                return p50, p99
        return self.curve[-1][1:]


def measured(record: Path, server: str) -> Pod:
    """A server of a record of the benchmark."""
    (found,) = [one for one in json.loads(record.read_text())["servers"] if one["name"] == server]
    capacity = next(load["report"]["requests_per_s"] for load in found["loads"] if load["connections"] == 64)
    reports = [load["report"] for load in found["open_loads"] if not load["report"]["errors"]]
    points = ((report["requests_per_s"], report["p50_ms"] / 1000, report["p99_ms"] / 1000) for report in reports)
    return Pod(capacity, tuple(sorted(point for point in points if point[0] < capacity)))


@dataclass(frozen=True)
class Autoscaler:
    """An HPA. `on`: `in flight` (requests of a pod), `log` (log2(1 + requests) of each pod, the target in requests too), both
    summed over the pods as KEDA hands them on, or `cpu` (a share of 1, averaged over ready pods). `window_s`: what the metric is
    an average over, `delay_s`: how old it is when the autoscaler sees it."""

    on: str
    target: float
    least: int = 2
    most: int = 40
    window_s: int = 30
    delay_s: int = 15
    up_pods: int = 4
    up_share: float = 1.0
    up_period_s: int = 15
    down_window_s: int = 300
    down_share: float = 0.5
    down_period_s: int = 60

    @property
    def name(self) -> str:
        names = {
            "cpu": f"CPU {self.target:.0%}",
            "in flight": f"{self.target:g} in flight",
            "log": f"{self.target:g} in flight, log2",
        }
        return names[self.on]

    def metric(self, in_flight: float, ready: int, busy: float) -> float:
        """Of one second; `in_flight` and `busy` of one pod."""
        return {"cpu": busy, "in flight": in_flight * ready, "log": math.log2(1 + in_flight) * ready}[self.on]

    def desired(self, seen: float, current: int, ready: int) -> int:
        if self.on == "cpu":
            return desired(current, ready, seen, self.target, of_all=False)
        target = math.log2(1 + self.target) if self.on == "log" else self.target
        return desired(current, ready, seen / current, target, of_all=True)


@dataclass
class Replicas:
    """Pods of a Deployment: when each is ready. The autoscaler's memory is here too."""

    ready_at: list[float]
    recommended: deque[tuple[float, int]] = field(default_factory=deque)
    sizes: deque[tuple[float, int]] = field(default_factory=deque)

    def ready(self, now: float) -> int:
        return sum(at <= now for at in self.ready_at)

    def resize(self, count: int, *, now: float, start_s: float) -> None:
        """Pods that are not ready go first, as the newest do in Kubernetes."""
        del self.ready_at[count:]
        self.ready_at += [now + start_s] * (count - len(self.ready_at))


def desired(current: int, ready: int, average: float, target: float, *, of_all: bool) -> int:
    """The formula, for the average of a metric. `of_all`: it is a sum divided by all pods; else an average over the ready ones,
    and the others count as 0 where that would scale up.

    >>> desired(2, 2, 200, 100, of_all=False), desired(4, 4, 50, 100, of_all=False), desired(3, 3, 109, 100, of_all=False)
    (4, 2, 3)
    """
    ratio = average / target
    counted = current if of_all else ready
    if not of_all and ratio > 1 and ready < current:
        ratio, counted = ratio * ready / current, current
        if ratio <= 1 + TOLERANCE:
            return current
    if abs(ratio - 1) <= TOLERANCE:
        return current
    return math.ceil(ratio * counted)


def decide(scaler: Autoscaler, replicas: Replicas, wanted: int, *, now: float) -> int:
    """What comes of a wanted number by the stabilisation window and the policies."""
    current = len(replicas.ready_at)
    replicas.recommended.append((now, wanted))
    forget(replicas.recommended, before=now - scaler.down_window_s)
    forget(replicas.sizes, before=now - max(scaler.up_period_s, scaler.down_period_s))
    if wanted < current:
        wanted = min(current, max(count for _, count in replicas.recommended))
        most_before = max([count for at, count in replicas.sizes if at > now - scaler.down_period_s], default=current)
        wanted = max(wanted, math.floor(max(current, most_before) * (1 - scaler.down_share)))
    elif wanted > current:
        least_before = min([count for at, count in replicas.sizes if at > now - scaler.up_period_s], default=current)
        base = min(current, least_before)
        wanted = min(wanted, max(base + scaler.up_pods, math.ceil(base * (1 + scaler.up_share))))
    wanted = min(max(wanted, scaler.least), scaler.most)
    replicas.sizes.append((now, current))
    return wanted


def forget(entries: deque[tuple[float, int]], *, before: float) -> None:
    while entries and entries[0][0] <= before:
        entries.popleft()


@dataclass(frozen=True)
class Second:
    """One second of the day, over all pods."""

    rate: float
    replicas: int
    p99_s: float
    refused: float


def simulate(pod: Pod, scaler: Autoscaler, rates: Sequence[float], *, start_s: float) -> Iterator[Second]:
    """Requests are dealt out evenly, those that wait too. What the pods can't take waits, up to their limits; more is refused."""
    replicas = Replicas([0.0] * min(scaler.most, max(scaler.least, math.ceil(rates[0] / pod.capacity / 0.6))))
    waiting = 0.0
    metrics: deque[float] = deque(maxlen=scaler.delay_s + scaler.window_s)
    for now, rate in enumerate(rates):
        ready = replicas.ready(now)
        share = min(rate / ready, pod.capacity)
        p50_s, p99_s = pod.latencies_s(share)
        waiting = max(0.0, waiting + rate - ready * pod.capacity)
        refused = max(0.0, waiting - ready * (pod.limit - share * p50_s))
        waiting -= refused
        yield Second(rate, len(replicas.ready_at), p99_s + waiting / ready / pod.capacity, refused)
        busy = 1.0 if waiting else share / pod.capacity
        metrics.append(scaler.metric(share * p50_s + waiting / ready, ready, busy))
        if now % SYNC_S == 0 and len(metrics) == metrics.maxlen:
            seen = fmean(list(metrics)[: scaler.window_s])
            wanted = scaler.desired(seen, len(replicas.ready_at), ready)
            replicas.resize(decide(scaler, replicas, wanted, now=now), now=now, start_s=start_s)


def day(*, night: float, peak: float, spike: float, spike_at_s: int, spike_s: int, seed: int = 0) -> list[float]:
    """Requests/s at each second: a hump with its top at 14 h, and once `spike` times as many, reached within half a minute."""
    chance = random.Random(seed)
    rates = []
    for now in range(DAY_S):
        rate = night + (peak - night) * (0.5 - 0.5 * math.cos(2 * math.pi * (now / DAY_S - 2 / 24))) ** 1.5
        if spike_at_s <= now < spike_at_s + spike_s:
            rate *= 1 + (spike - 1) * min(1.0, (now - spike_at_s) / 30)
        rates.append(max(1.0, chance.gauss(rate, math.sqrt(rate))))
    return rates


@dataclass(frozen=True)
class Outcome:
    """A day in five figures. `slow_share`: of the requests, those of seconds whose p99 was above the bound."""

    name: str
    slow_share: float
    worst_p99_s: float
    refused_share: float
    replica_hours: float
    seconds: tuple[Second, ...]


def outcome(name: str, seconds: Sequence[Second], *, bound_s: float) -> Outcome:
    requests = sum(second.rate for second in seconds)
    return Outcome(
        name,
        slow_share=sum(second.rate for second in seconds if second.p99_s > bound_s) / requests,
        worst_p99_s=max(second.p99_s for second in seconds),
        refused_share=sum(second.refused for second in seconds) / requests,
        replica_hours=sum(second.replicas for second in seconds) / 3600,
        seconds=tuple(seconds),
    )


def table(outcomes: Sequence[Outcome], *, bound_s: float, price: float) -> str:
    """Markdown."""
    slow = f"requests in seconds with p99 above {1000 * bound_s:.0f} ms"
    lines = [f"| scaled on | {slow} | worst p99, ms | refused | pod hours | a day |", "|---|---:|---:|---:|---:|---:|"]
    for one in outcomes:
        lines.append(
            f"| {one.name} | {one.slow_share:.2%} | {1000 * one.worst_p99_s:.0f} | {one.refused_share:.2%} "
            f"| {one.replica_hours:.0f} | ${one.replica_hours * price:.2f} |"
        )
    return "\n".join(lines)


def save_plot(path: Path, outcomes: Sequence[Outcome], *, around_s: int, price: float) -> None:
    """Rate, p99 and pods: the day on the left, the spike on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 2, figsize=(10, 7), layout="constrained", sharex="col")
    spans = ((0, DAY_S, 60), (around_s - 300, around_s + 1500, 5))
    for column, (first, last, step) in enumerate(spans):
        hours = [now / 3600 for now in range(first, last, step)]
        draw = axes[:, column]
        drawn = outcomes[0].seconds[first:last]
        draw[0].plot(hours, means(drawn, step, lambda second: second.rate), color="black", linewidth=1)
        for one in outcomes:
            seconds = one.seconds[first:last]
            draw[1].plot(hours, means(seconds, step, lambda second: 1000 * second.p99_s), linewidth=1, label=one.name)
            label = f"{one.name}: {one.replica_hours:.0f} pod hours, ${one.replica_hours * price:.2f}"
            draw[2].plot(hours, means(seconds, step, lambda second: second.replicas), linewidth=1, label=label)
        draw[1].set_yscale("log")
        draw[2].set_xlabel("hour of the day")
    for row, name in enumerate(("requests/s", "p99, ms", "pods")):
        axes[row, 0].set_ylabel(name)
    axes[0, 0].set_title("the day")
    axes[0, 1].set_title("the spike")
    axes[1, 1].legend(fontsize=8)
    axes[2, 0].legend(fontsize=8)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def means(seconds: Sequence[Second], step: int, value: Callable[[Second], float]) -> list[float]:
    """The mean of each `step` seconds."""
    return [fmean(map(value, seconds[first : first + step])) for first in range(0, len(seconds), step)]


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m load_tests.autoscaling", description=(__doc__ or "").splitlines()[0])
    options.add_argument("--record", type=Path, default=RECORD, help="what a pod does: a record of the benchmark")
    options.add_argument("--server", default="Valence float32", help="which server of the record")
    options.add_argument(
        "--start-s", type=float, default=30, help="from the decision to a ready pod: node, image, 8 to 12 s of start"
    )
    options.add_argument("--night", type=float, default=300, help="requests/s at the least")
    options.add_argument("--peak", type=float, default=2500, help="requests/s at the most, without the spike")
    options.add_argument("--spike", type=float, default=3, help="how many times as many come in the spike")
    options.add_argument("--spike-hour", type=float, default=20)
    options.add_argument("--spike-minutes", type=float, default=10)
    options.add_argument("--in-flight", type=float, nargs="+", default=[4, 8, 16, 32], help="targets to try, plain and log2")
    options.add_argument("--cpu", type=float, nargs="+", default=[0.4, 0.5, 0.6, 0.7], help="targets to try")
    options.add_argument("--bound-ms", type=float, default=250, help="p99 that should hold")
    options.add_argument("--price", type=float, default=0.08, help="of a pod's hour, in dollars")
    options.add_argument("--plot", type=Path, help="where to draw one target of each kind")
    options.add_argument("--plotted", type=float, nargs=2, default=[8, 0.6], help="in flight and CPU of the picture")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options: Any = parser().parse_args(arguments)
    pod = measured(options.record, options.server)
    spike_at_s = int(options.spike_hour * 3600)
    spike_s = int(options.spike_minutes * 60)
    rates = day(night=options.night, peak=options.peak, spike=options.spike, spike_at_s=spike_at_s, spike_s=spike_s)

    def run(scaler: Autoscaler) -> Outcome:
        return outcome(scaler.name, list(simulate(pod, scaler, rates, start_s=options.start_s)), bound_s=options.bound_ms / 1000)

    targets = [(on, target) for on in ("in flight", "log") for target in options.in_flight]
    targets += [("cpu", target) for target in options.cpu]
    outcomes = [run(Autoscaler(on, target)) for on, target in targets]
    print(f"a pod: {pod.capacity:.0f} requests/s; ready {options.start_s:g} s after the decision\n")
    print(table(outcomes, bound_s=options.bound_ms / 1000, price=options.price))
    if options.plot is not None:
        in_flight, cpu = options.plotted
        shown = [run(Autoscaler(on, target)) for on, target in (("log", in_flight), ("in flight", in_flight), ("cpu", cpu))]
        save_plot(options.plot, shown, around_s=spike_at_s, price=options.price)


if __name__ == "__main__":
    main()
