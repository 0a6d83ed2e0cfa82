"""What a run's figures become: promises, tables, JSON, plots."""

import dataclasses
import json
import math
import tempfile
from pathlib import Path

import pytest

from load_tests.bench.answers import AnswerCheck
from load_tests.bench.markdown import to_markdown
from load_tests.bench.plots import save_plots
from load_tests.bench.promises import Promise, promises
from load_tests.bench.results import Forward, Measured, Results, ServerResult, Unmeasured, neutral, to_dict, to_json
from load_tests.generator.report import Report
from load_tests.servers import ROOT

GOOD = AnswerCheck(texts=200, max_difference=1e-6, mean_difference=1e-7, equal_labels=1.0, failure="")
WRONG = dataclasses.replace(GOOD, max_difference=0.5, failure="a probability differs by 0.5 (tolerated: 0.001)")


def report(requests_per_s: float, *, size: int = 1, p50_ms: float = 10.0) -> Report:
    return Report(
        requests=int(requests_per_s),
        errors={"status 503": 2} if requests_per_s == 13.0 else {},
        requests_per_s=requests_per_s,
        texts_per_s=size * requests_per_s,
        p50_ms=p50_ms if requests_per_s else math.nan,
        p90_ms=2 * p50_ms,
        p99_ms=3 * p50_ms,
        p999_ms=4 * p50_ms,
        max_ms=5 * p50_ms,
        generator_cpu=0.02,
    )


def server(
    contender: str, dtype: str, *, lone: float, busy: float, batches: float, open_rates: tuple[float, ...] = ()
) -> ServerResult:
    """Rates of requests at 1 and 64 connections, and of requests of 32 texts."""
    loads = [(1, 1, lone), (64, 1, busy), (8, 32, batches)]
    return ServerResult(
        contender=contender,
        name=f"{contender} {dtype}",
        dtype=dtype,
        arguments=f"-m {contender}",
        versions={"torch": "2"},
        answers=GOOD,
        loads=[
            Measured(connections=connections, texts_per_request=size, busy_cores_before=0.01, report=report(rate, size=size))
            for connections, size, rate in loads
        ],
        open_loads=[
            Measured(connections=256, texts_per_request=1, rate=rate, busy_cores_before=0.01, report=report(rate))
            for rate in open_rates
        ],
        idle_cpu_percent=0.5,
    )


def results(*servers: ServerResult) -> Results:
    return Results(
        command="python -m load_tests.bench",
        date="2026-01-02",
        machine={"cpu": "Test", "cores": "2"},
        versions={"python": "3"},
        setup={},
        forwards=[Forward(dtype="int8", texts_per_s=500.0, one_text_p50_ms=9.0)],
        servers=list(servers),
    )


INT8 = server("valence", "int8", lone=70.0, busy=400.0, batches=15.0, open_rates=(40.0, 400.0))
BFLOAT16 = server("valence", "bfloat16", lone=70.0, busy=300.0, batches=15.0)
STOCK = server("stock_litserve", "float32", lone=50.0, busy=100.0, batches=4.0)
ONNX = server("onnx_int8", "int8", lone=80.0, busy=200.0, batches=10.0)
VLLM = server("vllm_cpu", "bfloat16", lone=20.0, busy=100.0, batches=5.0)


def found(*servers: ServerResult) -> dict[tuple[str, float], Promise]:
    return {(promise.subject, promise.goal): promise for promise in promises(results(*servers))}


@pytest.mark.parametrize(
    ("subject", "goal", "value", "verdict"),
    [
        ("64 connections: requests/s against stock_litserve float32", 3.0, 4.0, "met"),
        ("64 connections: requests/s against stock_litserve float32", 5.0, 4.0, "missed"),
        ("64 connections: requests/s against onnx_int8 int8", 1.8, 2.0, "met"),
        ("1 x 1 texts: requests/s against onnx_int8 int8", 1.0, 0.875, "missed"),
        ("64 x 1 texts: requests/s against onnx_int8 int8", 1.0, 2.0, "met"),
        ("8 x 32 texts: requests/s against onnx_int8 int8", 1.0, 1.5, "met"),
        ("32 texts a request: texts/s against the bare packed forward", 0.92, 0.96, "met"),
        ("64 connections: texts/s against the bare packed forward", 0.85, 0.80, "missed"),
        ("1 connection: p50 beyond the bare forward's", 2.0, 1.0, "met"),
        ("idle: CPU of all its processes, of one core", 2.0, 0.5, "met"),
    ],
)
def test_a_promise_is_held_against_the_figures(subject: str, goal: float, value: float, verdict: str) -> None:
    promise = found(STOCK, ONNX, INT8)[(f"valence int8, {subject}", goal)]
    assert promise.value == pytest.approx(value)
    assert promise.verdict == verdict


def test_a_peer_that_was_not_measured_leaves_its_promises_open() -> None:
    open_promises = [promise for promise in found(INT8).values() if promise.verdict == "not measured"]
    assert sorted(promise.goal for promise in open_promises) == [1.0, 1.0, 1.0, 1.8, 3.0, 5.0]


def test_a_gpu_has_goals_of_its_own() -> None:
    run = results(BFLOAT16)
    run.machine["accelerator"] = "H100"
    run.forwards.append(Forward(dtype="bfloat16", texts_per_s=490.0, one_text_p50_ms=9.0))
    run.forwards.append(Forward(dtype="bfloat16", compiled=True, texts_per_s=500.0, one_text_p50_ms=9.0))
    goals = {promise.subject: promise for promise in promises(run)}
    assert goals["valence bfloat16: most requests/s"].verdict == "missed"
    assert goals["valence bfloat16: GPU busy at that load"].verdict == "not measured"
    assert goals["valence bfloat16, 32 texts a request: of the bare forward"].value == 480 / 500
    assert not any("GPU busy" in subject for subject, _ in found(BFLOAT16))


def test_the_faster_of_two_vllms_is_the_measure() -> None:
    faster = server("vllm_cpu", "float32", lone=20.0, busy=150.0, batches=5.0)
    key = ("valence bfloat16, 64 connections: requests/s against vllm_cpu float32", 1.8)
    assert found(BFLOAT16, VLLM, faster)[key].value == pytest.approx(2.0)


def test_vllm_is_a_measure_only_where_both_were_measured() -> None:
    key = ("valence bfloat16, 64 connections: requests/s against vllm_cpu bfloat16", 1.8)
    assert found(BFLOAT16, VLLM)[key].value == pytest.approx(3.0)
    assert not any("vllm" in subject for subject, _ in [*found(BFLOAT16), *found(INT8, VLLM)])


def test_a_server_with_wrong_answers_is_shown_and_counts_for_nothing() -> None:
    wrong = dataclasses.replace(STOCK, answers=WRONG, loads=[])
    run = results(wrong, INT8)
    assert run.server("stock_litserve") is None
    assert f"| stock_litserve float32 | 200 | 0.5 | 1e-07 | 100.0% | {WRONG.failure} |" in to_markdown(run)


def test_tables_hold_errors_open_loops_and_what_is_missing() -> None:
    run = results(dataclasses.replace(INT8, loads=[*INT8.loads]), server("x", "int8", lone=1.0, busy=13.0, batches=1.0))
    run.unmeasured.append(Unmeasured(name="y", settings="--threads 2", reason="the server ended:\n  a | b"))
    markdown = to_markdown(run)
    assert "| x int8 | 64 | 1 | 13.0 | 13.0 | 10.0 | 20.0 | 30.0 | 40.0 | 2 status 503 | 2% | 0.01 |" in markdown
    assert "| valence int8 | 10% | 40.0 | 40.0 | 10.0 | 20.0 | 30.0 | 40.0 | 0 | 2% | 0.01 |" in markdown
    assert "| y | --threads 2 | the server ended: a / b |" in markdown


def test_a_table_has_as_many_cells_in_each_row() -> None:
    run = results(STOCK, ONNX, INT8)
    run.grid.append(STOCK)
    for part in to_markdown(run).split("\n\n"):
        if part.startswith("|"):
            assert len({line.count("|") for line in part.splitlines()}) == 1


def test_json_holds_everything_and_no_nan() -> None:
    run = results(server("x", "int8", lone=0.0, busy=2.0, batches=1.0), INT8)
    content = json.loads(to_json(to_dict(run)), parse_constant=pytest.fail)
    assert content["servers"][0]["loads"][0]["report"]["p50_ms"] is None
    assert content["servers"][1]["open_loads"][1]["rate"] == 400.0
    assert content["servers"][1]["answers"]["equal_labels"] == 1.0


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (f"{tempfile.gettempdir()}/bench-x7k2/random-bert-base", "random-bert-base"),
        (f"bench={tempfile.gettempdir()}/bench-x7k2/plain/config.json", "bench=plain/config.json"),
        (f"{ROOT}/models/builder.py", "models/builder.py"),
        ("models/checkpoints/sentiment-bert", "models/checkpoints/sentiment-bert"),
        (f"/var{tempfile.gettempdir()}/bench-x7k2/model", f"/var{tempfile.gettempdir()}/bench-x7k2/model"),
    ],
)
def test_a_record_names_no_folder_of_the_run_or_the_repository(path: str, shown: str) -> None:
    assert neutral(f"--model {path} --port 1") == f"--model {shown} --port 1"


def test_saturation_is_of_single_texts() -> None:
    assert server("x", "int8", lone=1.0, busy=20.0, batches=50.0).saturation == 20.0


def test_plots_are_saved_for_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    wrong = dataclasses.replace(STOCK, answers=WRONG, loads=[])
    assert [path.name for path in save_plots(results(wrong, ONNX, INT8), tmp_path / "run")] == ["run.png", "run-latency.png"]
    assert [path.name for path in save_plots(results(ONNX), tmp_path / "run")] == ["run.png"]
    assert save_plots(results(wrong), tmp_path / "run") == []
