"""What the README promises of Valence, held against a run's figures."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from load_tests.bench.results import BATCH_TEXTS, PROMISED_CONNECTIONS, Forward, Results, ServerResult
from load_tests.generator.report import Report


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A figure that is promised. `value` None: not measured."""

    subject: str
    value: float | None
    goal: float
    at_least: bool = True
    unit: str = "x"

    @property
    def verdict(self) -> str:
        if self.value is None or math.isnan(self.value):
            return "not measured"
        return "met" if (self.value >= self.goal if self.at_least else self.value <= self.goal) else "missed"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


def promises(results: Results) -> list[Promise]:
    """All promises of each dtype that was served. One that could not be measured says so."""
    bare = {forward.dtype: forward for forward in sorted(results.forwards, key=lambda forward: forward.texts_per_s)}
    found: list[Promise] = []
    for server in results.servers:
        if server.contender == "valence" and server.loads:
            found += against_stock(server, results.server("stock_litserve"))
            found += against_the_forward(server, bare.get(server.dtype))
            found.append(idle(server))
            if "accelerator" in results.machine:
                found += on_a_gpu(server, results.server("stock_litserve"), bare.get(server.dtype))
    if int8 := results.server("valence", "int8"):
        found += against_onnx(int8, results.server("onnx_int8"))
    bfloat16 = results.server("valence", "bfloat16")
    vllms = [server for server in results.servers if server.contender == "vllm_cpu" and server.loads]
    if bfloat16 and vllms:
        fastest = max(vllms, key=lambda server: server.saturation)
        subject = f"{_busy_subject(bfloat16)} against {fastest.name}"
        found.append(Promise(subject=subject, value=_busy_ratio(bfloat16, fastest), goal=1.8))
    return found


def against_stock(server: ServerResult, stock: ServerResult | None) -> Iterator[Promise]:
    """Two goals: the least that is promised, and what is aimed at."""
    for goal in (3.0, 5.0):
        subject = f"{_busy_subject(server)} against {stock.name if stock else 'stock LitServe'}"
        yield Promise(subject=subject, value=_busy_ratio(server, stock), goal=goal)


def against_the_forward(server: ServerResult, bare: Forward | None) -> Iterator[Promise]:
    """What the service adds to the model's own time."""
    batches = server.load(connections=None, texts_per_request=BATCH_TEXTS)
    busy = server.load(connections=PROMISED_CONNECTIONS, texts_per_request=1)
    lone = server.load(connections=1, texts_per_request=1)
    for goal in (0.80, 0.92):
        yield Promise(
            subject=f"{server.name}, {BATCH_TEXTS} texts a request: texts/s against the bare packed forward",
            value=batches.texts_per_s / bare.texts_per_s if batches and bare else None,
            goal=goal,
        )
    yield Promise(
        subject=f"{server.name}, {PROMISED_CONNECTIONS} connections: texts/s against the bare packed forward",
        value=busy.texts_per_s / bare.texts_per_s if busy and bare else None,
        goal=0.85,
    )
    yield Promise(
        subject=f"{server.name}, 1 connection: p50 beyond the bare forward's",
        value=lone.p50_ms - bare.one_text_p50_ms if lone and bare else None,
        goal=2.0,
        at_least=False,
        unit=" ms",
    )


def on_a_gpu(server: ServerResult, stock: ServerResult | None, bare: Forward | None) -> Iterator[Promise]:
    """Goals for BERT-base in half precision on one H100 with 16 cores, texts of about 20 tokens."""
    singles = [measured for measured in server.loads if measured.texts_per_request == 1]
    most = max(singles, key=lambda measured: measured.report.requests_per_s)
    yield Promise(subject=f"{server.name}: most requests/s", value=most.report.requests_per_s, goal=50_000, unit="/s")
    yield Promise(subject=f"{server.name}: GPU busy at that load", value=most.gpu_busy_percent, goal=95, unit="%")
    for connections, p50_ms, rate in ((1, 1.2, None), (PROMISED_CONNECTIONS, 2.5, 22_000)):
        report = server.load(connections=connections, texts_per_request=1)
        subject = f"{server.name}, {connections} connections"
        yield Promise(subject=f"{subject}: p50", value=report.p50_ms if report else None, goal=p50_ms, at_least=False, unit=" ms")
        if rate is not None:
            yield Promise(subject=f"{subject}: requests/s", value=report.requests_per_s if report else None, goal=rate, unit="/s")
    ours, theirs = (found.load(connections=512, texts_per_request=1) if found else None for found in (server, stock))
    yield Promise(
        subject=f"{server.name}, 512 connections: requests/s against stock LitServe", value=_ratio(ours, theirs), goal=60
    )
    batches = server.load(connections=None, texts_per_request=BATCH_TEXTS)
    if batches:
        yield Promise(
            subject=f"{server.name}, {BATCH_TEXTS} texts a request: texts/s", value=batches.texts_per_s, goal=80_000, unit="/s"
        )
        share = batches.texts_per_s / bare.texts_per_s if bare else None
        yield Promise(subject=f"{server.name}, {BATCH_TEXTS} texts a request: of the bare forward", value=share, goal=0.95)


def idle(server: ServerResult) -> Promise:
    return Promise(
        subject=f"{server.name}, idle: CPU of all its processes, of one core",
        value=server.idle_cpu_percent,
        goal=2.0,
        at_least=False,
        unit="%",
    )


def against_onnx(server: ServerResult, onnx: ServerResult | None) -> Iterator[Promise]:
    """1.8 times its requests/s under 64 connections, and no fewer at any load."""
    name = onnx.name if onnx else "FastAPI + ONNX Runtime int8"
    yield Promise(subject=f"{_busy_subject(server)} against {name}", value=_busy_ratio(server, onnx), goal=1.8)
    for measured in server.loads:
        theirs = onnx.load(connections=measured.connections, texts_per_request=measured.texts_per_request) if onnx else None
        yield Promise(
            subject=f"{server.name}, {measured.connections} x {measured.texts_per_request} texts: requests/s against {name}",
            value=_ratio(measured.report, theirs),
            goal=1.0,
        )


def _busy_subject(server: ServerResult) -> str:
    return f"{server.name}, {PROMISED_CONNECTIONS} connections: requests/s"


def _busy_ratio(server: ServerResult, peer: ServerResult | None) -> float | None:
    ours, theirs = (
        found.load(connections=PROMISED_CONNECTIONS, texts_per_request=1) if found else None for found in (server, peer)
    )
    return _ratio(ours, theirs)


def _ratio(ours: Report | None, theirs: Report | None) -> float | None:
    return ours.requests_per_s / theirs.requests_per_s if ours and theirs and theirs.requests else None
