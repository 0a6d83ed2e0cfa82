"""`/metrics` held against what was sent, with two HTTP processes and two workers. The tests run in order."""

import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from transformers import AutoTokenizer

NAMES = ("tiny-bert", "tiny-lstm", "failing")
ROUTES = {"/predict", "/", "/models/{name}/predict", "/health", "/ready", "/info", "/metrics", "other"}
HOSTILE = 'h0stile"} 1\nvalence_x{a="'
Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


class Sent(NamedTuple):
    """A request, and what it should count as. `scored` and `failed`: its texts that the model scores and those it fails on."""

    path: str
    body: Mapping[str, Any]
    route: str
    model: str
    status: int
    error_type: str = ""
    scored: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


GOOD = ("a wonderful film", "good", "not good at all, not even funny 😍")
# The model of the last ones is served in padded batches. Their texts have equally many tokens, so that there is no padding.
KINDS = [
    Sent("/predict", {"inputs": list(GOOD)}, "/predict", "tiny-bert", 200, scored=GOOD),
    Sent("/", {"inputs": GOOD[0]}, "/", "tiny-bert", 200, scored=GOOD[:1]),
    Sent("/predict", {"inputs": GOOD[1], "model": "tiny-lstm"}, "/predict", "tiny-lstm", 200, scored=GOOD[1:2]),
    Sent("/models/tiny-lstm/predict", {"inputs": list(GOOD)}, "/models/{name}/predict", "tiny-lstm", 200, scored=GOOD),
    Sent("/predict", {"inputs": 3}, "/predict", "", 422, "validation"),
    Sent("/predict", {"inputs": GOOD[2] * 50, "truncate": False}, "/predict", "tiny-bert", 422, "validation"),
    Sent("/", {"inputs": []}, "/", "", 400, "empty"),
    Sent("/models/none/predict", {"inputs": "good"}, "/models/{name}/predict", "", 404, "not_found"),
    Sent("/none", {"inputs": "good"}, "other", "", 404, "not_found"),
    Sent("/info", {}, "/info", "", 405, "method"),
    Sent("/predict", {"inputs": ["good"] * 65}, "/predict", "", 422, "validation"),
    Sent("/predict", {"inputs": "a" * 200_000}, "/predict", "", 413, "payload_too_large"),
    Sent("/predict", {"inputs": ["the food", "the film"], "model": "failing"}, "/predict", "failing", 200,
         scored=("the food", "the film")),
    Sent("/predict", {"inputs": ["a poison", "the food"], "model": "failing"}, "/predict", "failing", 424, "backend",
         scored=("the food",), failed=("a poison",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def counting(start_server: Callable[..., Any]) -> Any:
    flags = ("--http-processes", "2", "--workers-per-device", "2", "--payload-limit", "100000", "--max-client-batch-size", "64")
    return start_server(*flags, names=NAMES)


@pytest.fixture(scope="module")
def tokens_of(models: Mapping[str, Path]) -> Callable[..., int]:
    """Counts the tokens of texts by the trained tokenizer, without the service."""
    tokenizers = {name: AutoTokenizer.from_pretrained(models[name]) for name in NAMES}
    return lambda model, *texts: sum(len(tokenizers[model](text).input_ids) for text in texts)


def gain(after: Samples, before: Samples, name: str, *by: str) -> dict[Any, float]:
    """What a counter gained, by the values of the labels `by`. A single label's value is the key itself. Zeros are left out."""
    result: Counter[Any] = Counter()
    for (sample, labels), value in after.items():
        if sample == name:
            values = tuple(dict(labels)[label] for label in by)
            result[values[0] if len(by) == 1 else values] += value - before.get((sample, labels), 0)
    return {key: value for key, value in result.items() if value}


def total(sent: list[Sent], key: Callable[[Sent], Any], amount: Callable[[Sent], float] = lambda _: 1) -> dict[Any, float]:
    result: Counter[Any] = Counter()
    for one in sent:
        result[key(one)] += amount(one)
    return {key: value for key, value in result.items() if value}


def settled(server: Any, before: Samples, texts: float, wait: Callable[..., None]) -> Samples:
    """The samples once all processes have written their counts.

    A worker observes texts after their answers have left, so it is waited for. The HTTP process that does not answer the scrape
    writes its counts within 50 ms."""
    wait(lambda: sum(gain(server.samples(), before, "valence_input_tokens_count", "model").values()) >= texts, timeout_s=20)
    time.sleep(0.2)
    return server.samples()


@pytest.fixture(scope="module")
def counted(counting: Any, wait: Callable[..., None]) -> tuple[list[Sent], Samples, Samples]:
    """Sends requests over many connections at once: (what was sent, samples before, samples after)."""
    sent = KINDS * 12
    before = counting.samples()
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda one: counting.client.post(one.path, json=one.body), sent))
    assert [answer.status_code for answer in answers] == [one.status for one in sent]
    return sent, before, settled(counting, before, sum(len(one.scored) + len(one.failed) for one in sent), wait)


def test_requests_and_failures_are_counted_by_what_became_of_them(counted: tuple[list[Sent], Samples, Samples]) -> None:
    sent, before, after = counted
    requests = gain(after, before, "valence_requests_total", "route", "model", "status")
    monitored = {key: value for key, value in requests.items() if key[0] in ("/metrics", "/ready")}
    expected = total(sent, lambda one: (one.route, one.model, str(one.status)))
    assert requests == {**expected, **monitored}
    failures = gain(after, before, "valence_failures_total", "error_type")
    assert failures == total([one for one in sent if one.error_type], lambda one: one.error_type)


def test_texts_and_tokens_are_counted_by_model(
    counted: tuple[list[Sent], Samples, Samples], tokens_of: Callable[..., int]
) -> None:
    sent, before, after = counted
    scored = total(sent, lambda one: one.model, lambda one: len(one.scored))
    computed = total(sent, lambda one: one.model, lambda one: len(one.scored) + len(one.failed))
    tokens = total(sent, lambda one: one.model, lambda one: tokens_of(one.model, *one.scored, *one.failed) if one.model else 0)
    assert gain(after, before, "valence_texts_total", "model") == scored
    assert gain(after, before, "valence_tokens_total", "model", "kind") == {
        (model, "real"): value for model, value in tokens.items()
    }
    for name in ("valence_input_tokens_count", "valence_queue_duration_seconds_count", "valence_batch_texts_sum"):
        assert gain(after, before, name, "model") == computed
    for name in ("valence_input_tokens_sum", "valence_batch_tokens_sum"):
        assert gain(after, before, name, "model") == tokens


def test_durations_are_counted_once_a_request_and_once_a_batch(counted: tuple[list[Sent], Samples, Samples]) -> None:
    sent, before, after = counted
    answered = [one for one in sent if one.status == 200]
    assert gain(after, before, "valence_request_duration_seconds_count", "model") == total(answered, lambda one: one.model)
    tokenized = [one for one in sent if one.scored]
    assert gain(after, before, "valence_tokenization_duration_seconds_count", "model") == total(tokenized, lambda one: one.model)
    batches = gain(after, before, "valence_batch_texts_count", "model")
    assert batches.keys() == set(NAMES)
    for name in ("valence_batch_tokens_count", "valence_inference_duration_seconds_count"):
        assert gain(after, before, name, "model") == batches


@pytest.mark.parametrize("name", ["request", "tokenization", "queue", "inference"])
def test_buckets_of_seconds_span_what_can_happen(counted: tuple[list[Sent], Samples, Samples], name: str) -> None:
    after = counted[2]
    buckets = [
        (dict(labels), value) for (sample, labels), value in after.items() if sample == f"valence_{name}_duration_seconds_bucket"
    ]
    of_bert = sorted((float(labels["le"]), value) for labels, value in buckets if labels["model"] == "tiny-bert")
    assert (of_bert[0][0], of_bert[-2][0], of_bert[-1][0]) == (0.0002, 30, float("inf"))
    counts = [value for _, value in of_bert]
    assert counts == sorted(counts)
    assert counts[-1] == after[f"valence_{name}_duration_seconds_count", frozenset({("model", "tiny-bert")})]


def test_padding_is_what_makes_texts_equally_long(
    counting: Any, tokens_of: Callable[..., int], wait: Callable[..., None]
) -> None:
    texts = ["the food was good", "the food was", "the food was good"]
    lengths = [tokens_of("failing", text) for text in texts]
    assert max(lengths) - min(lengths) == 1  # so near that they are one group
    before = counting.samples()
    assert counting.predict(texts, model="failing").status_code == 200
    after = settled(counting, before, 3, wait)
    assert gain(after, before, "valence_tokens_total", "model", "kind") == {
        ("failing", "real"): sum(lengths),
        ("failing", "padding"): 1,
    }


def test_a_client_that_leaves_is_a_failure_without_an_answer(counting: Any, wait: Callable[..., None]) -> None:
    host, port = counting.url.removeprefix("http://").split(":")
    before = counting.samples()
    body = b'{"inputs": "slow", "model": "failing"}'
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        wait(lambda: counting.metric("valence_requests_in_flight") == 1, timeout_s=10)
    wait(lambda: gain(counting.samples(), before, "valence_failures_total", "error_type") == {"client_gone": 1}, timeout_s=10)
    after = counting.samples()
    assert not [key for key in gain(after, before, "valence_requests_total", "route", "status") if key[0] == "/predict"]


def test_a_queue_that_is_given_up_is_seen_empty(counting: Any, wait: Callable[..., None]) -> None:
    """Texts that wait behind a slow one leave the queue, since their deadline passes or their client goes. No batch follows."""
    flags = {"x-request-timeout-s": "1.4"}
    with ThreadPoolExecutor(12) as pool:
        answers = pool.map(lambda _: counting.predict("slow", model="failing", headers=flags), range(12))
        wait(lambda: counting.metric("valence_queue_texts") > 0, timeout_s=10)
        assert {answer.status_code for answer in answers} <= {200, 504}
    wait(lambda: counting.metric("valence_queue_texts") == 0, timeout_s=20)


def test_counts_survive_a_worker_that_is_killed(counting: Any, wait: Callable[..., None]) -> None:
    before = counting.samples()
    with counting.slow_requests(4) as futures:
        counting.workers()[0].kill()
        statuses = [future.result(60).status_code for future in futures]
    assert set(statuses) <= {200, 503}
    assert 503 in statuses
    wait(lambda: gain(counting.samples(), before, "valence_worker_restarts_total", "device"), timeout_s=60)
    counting.wait_until_ready()
    wait(lambda: counting.metric("valence_worker_up") == 2, timeout_s=10)
    wait(lambda: counting.metric("valence_requests_in_flight") == counting.metric("valence_queue_texts") == 0, timeout_s=20)
    after = counting.samples()
    (restarted,) = gain(after, before, "valence_worker_restarts_total", "device").items()
    assert restarted in [("cpu/0", 1), ("cpu/1", 1)]
    gauges = ("valence_queue_texts", "valence_requests_in_flight", "valence_worker_up")
    assert [key for key, value in before.items() if key[0] not in gauges and after.get(key, -1) < value] == []
    requests = gain(after, before, "valence_requests_total", "route", "status")
    assert [requests.get(("/predict", status), 0) for status in ("200", "503")] == [statuses.count(200), statuses.count(503)]
    unhealthy = sum(count for (_, status), count in requests.items() if status == "503")  # GET /ready was answered 503 meanwhile
    assert gain(after, before, "valence_failures_total", "error_type") == {"unhealthy": unhealthy}
    assert counting.predict(["good"] * 4).status_code == 200


def test_counts_go_on_after_workers_and_http_processes_were_killed_together(counting: Any, wait: Callable[..., None]) -> None:
    """No process is left that saw the workers die: what they last said of their queues must go all the same."""
    before = counting.samples()
    with ThreadPoolExecutor(12) as pool:
        lost = [pool.submit(counting.predict, "slow", model="failing") for _ in range(12)]
        wait(lambda: counting.metric("valence_queue_texts") > 0, timeout_s=20)
        for process in (*counting.http_processes(), *counting.workers()):
            process.kill()
        for future in lost:
            with suppress(httpx.TransportError):
                assert future.result(60).status_code in (200, 503)
    counting.wait_until_ready()
    wait(lambda: counting.metric("valence_requests_in_flight") == counting.metric("valence_queue_texts") == 0, timeout_s=20)
    after = counting.samples()
    gauges = ("valence_queue_texts", "valence_requests_in_flight", "valence_worker_up")
    assert [key for key, value in before.items() if key[0] not in gauges and after.get(key, -1) < value] == []
    assert gain(after, before, "valence_worker_restarts_total", "device") == {"cpu/0": 1, "cpu/1": 1}
    assert [counting.client.post(one.path, json=one.body).status_code for one in KINDS] == [one.status for one in KINDS]
    computed = total(KINDS, lambda one: one.model, lambda one: len(one.scored) + len(one.failed))
    found = settled(counting, after, sum(computed.values()), wait)
    assert gain(found, after, "valence_queue_duration_seconds_count", "model") == computed
    assert gain(found, after, "valence_texts_total", "model") == total(KINDS, lambda one: one.model, lambda one: len(one.scored))


def test_no_label_holds_what_a_client_sent(counting: Any) -> None:
    quoted = HOSTILE.replace("\n", "%0a")
    for path in (f"/{quoted}", f"/models/{quoted}/predict", "/models/h0stile/predict", "/predict/h0stile", "/?h0stile"):
        for method in ("POST", "GET", "OPTIONS", "PROPFIND"):
            counting.client.request(method, path, json={"inputs": "h0stile", "model": HOSTILE})
    headers = {"x-request-id": "h0stile", "x-request-timeout-s": "h0stile", "x-api-key": "h0stile", "traceparent": "h0stile"}
    counting.predict("h0stile", model="h0stile", headers=headers)
    counting.predict(["good"], h0stile=1, headers=headers)
    host, port = counting.url.removeprefix("http://").split(":")
    for line in (b"H0STILE /predict HTTP/1.1\r\n\r\n", b"h0stile\r\n\r\n", b"POST h0stile HTTP/1.1\r\nhost: h0stile\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(line)
            connection.recv(1024)
    assert "h0stile" not in counting.client.get("/metrics").text.lower()
    seen: dict[str, set[str]] = {}
    for _, labels in counting.samples():
        for label, value in labels:
            seen.setdefault(label, set()).add(value)
    assert seen["route"] <= ROUTES
    assert seen["model"] <= {*NAMES, ""}
    assert all(status.isdigit() for status in seen["status"])
    assert seen["error_type"] == {
        "validation", "empty", "not_found", "method", "payload_too_large", "backend", "unhealthy", "timeout", "client_gone",
        "internal", "unauthorized", "tokenizer", "conflict", "overloaded", "forbidden",
    }  # fmt: skip
    assert seen["device"] == {"cpu/0", "cpu/1"}
    assert seen.keys() == {
        "route", "model", "status", "error_type", "kind", "device", "le", "version", "torch", "transformers", "architecture",
    }  # fmt: skip
