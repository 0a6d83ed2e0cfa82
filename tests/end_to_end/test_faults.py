"""What an operator's service must live through, each done to a real server. `make drills` does it at full length and prints what
was seen as a table."""

import json
import shutil
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

SAFETY_S = 60
Drill = Callable[[str], None]


@pytest.fixture
def busy_server(start_server: Callable[..., Any]) -> Any:
    """Two HTTP processes, one worker, and a watchdog that bites soon."""
    return start_server("--http-processes", "2", "--watchdog-s", "3")


class Traffic:
    """Threads that keep sending until the block ends; `statuses` counts what came back, by status or by the error's name."""

    def __init__(self, server: Any, *, threads: int, **body: Any) -> None:
        self.server, self.body = server, body
        self.statuses: Counter[int | str] = Counter()
        self.slowest_s = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(SAFETY_S)
            assert not thread.is_alive(), "a request hangs"

    def _send(self) -> None:
        with httpx.Client(base_url=self.server.url, timeout=SAFETY_S, trust_env=False) as client:
            while not self._stop.is_set():
                started_at = time.monotonic()
                try:
                    status: int | str = client.post("/predict", json=self.body).status_code
                except httpx.TransportError as error:
                    status = type(error).__name__
                self.statuses[status] += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - started_at)
                if status != 200:
                    self._stop.wait(0.02)


@pytest.mark.fault("a worker is killed while it is busy, again and again", "each request answered, 200 or 503; back without help")
def test_a_worker_killed_again_and_again(busy_server: Any, wait: Callable[..., None], full: bool, drill: Drill) -> None:
    kills = 20 if full else 2
    slowest_503_s = 0.0
    for _ in range(kills):
        with busy_server.slow_requests(4) as futures:
            killed_at = time.monotonic()
            busy_server.worker().kill()
            statuses = Counter(future.result(SAFETY_S).status_code for future in futures)
            slowest_503_s = max(slowest_503_s, time.monotonic() - killed_at)
        assert statuses == {503: 4}
        assert busy_server.client.get("/ready").status_code == 503
        busy_server.wait_until_ready()
        assert busy_server.predict("good").status_code == 200
    assert busy_server.metric("valence_worker_restarts_total") == kills
    assert slowest_503_s < 1
    drill(f"{kills} kills, {4 * kills} requests in flight: all 503 within {slowest_503_s:.2f} s; ready again each time")


@pytest.mark.fault("a forward never ends", "the watchdog notices, /ready 503, the worker is replaced")
@pytest.mark.parametrize("word", ["stuck", "frozen"], ids=["asleep", "holding Python's lock"])
def test_a_stuck_worker_is_replaced(busy_server: Any, wait: Callable[..., None], drill: Drill, word: str) -> None:
    started_at = time.monotonic()
    answer = busy_server.predict(word)
    noticed_s = time.monotonic() - started_at
    assert (answer.status_code, answer.json()["error_type"]) == (503, "unhealthy")
    assert 2 < noticed_s < 8
    assert busy_server.client.get("/ready").status_code == 503
    busy_server.wait_until_ready()
    assert busy_server.predict("good").status_code == 200
    log = busy_server.log.read_text()
    assert "failing_architecture.py" in log  # where it hung
    drill(f"watchdog of 3 s: answered 503 after {noticed_s:.1f} s, then replaced; the log says where it hung")


@pytest.mark.fault("one HTTP process is killed", "the others serve on; it is replaced")
def test_an_http_process_that_is_killed_is_replaced(busy_server: Any, wait: Callable[..., None], drill: Drill) -> None:
    before = busy_server.http_processes()
    assert len(before) == 2
    with Traffic(busy_server, threads=4, inputs="good") as traffic:
        time.sleep(0.3)
        before[0].kill()
        wait(lambda: len(set(busy_server.http_processes()) - {before[0]}) == 2, timeout_s=SAFETY_S)
        time.sleep(0.5)
    broken = sum(count for status, count in traffic.statuses.items() if status != 200)
    assert traffic.statuses[200] > 20
    assert broken <= 4  # what the killed process held: a connection of each thread at most
    assert before[1] in busy_server.http_processes()
    assert busy_server.metric("valence_requests_in_flight") == 0
    drill(f"{traffic.statuses[200]} requests answered meanwhile, {broken} lost with the process; 2 processes again")


@pytest.mark.fault("memory does not hold a batch", "it is split, the budget lowered, a metric tells")
def test_a_batch_that_memory_does_not_hold_is_split(busy_server: Any, drill: Drill) -> None:
    texts = [f"hungry {word}" for word in ("film", "train", "phone", "food")] * 16
    limit = busy_server.metric("valence_batch_tokens_limit")
    answer = busy_server.predict(texts)
    assert answer.status_code == 200
    alone = [busy_server.predict(text).json() for text in texts[:4]]
    for found, expected in zip(answer.json(), alone * 16, strict=True):
        assert {row["label"]: row["score"] for row in found} == pytest.approx(
            {row["label"]: row["score"] for row in expected}, abs=1e-5
        )
    lowered = busy_server.metric("valence_batch_tokens_limit")
    assert lowered < limit
    times = busy_server.metric("valence_out_of_memory_total")
    assert times >= 1
    drill(f"64 texts answered right; budget {limit:.0f} -> {lowered:.0f} tokens, counted {times:.0f} times")


@pytest.mark.fault("a text that the model raises on", "424 for it, its neighbours their right scores")
def test_a_text_that_fails_fails_alone(busy_server: Any, drill: Drill) -> None:
    expected = busy_server.predict("a wonderful film").json()
    with busy_server.slow_requests(1), ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(busy_server.predict, ["a wonderful film", "poison"] * 4))
    assert [answer.status_code for answer in answers] == [200, 424] * 4
    for answer in answers[::2]:
        assert [row["score"] for row in answer.json()] == pytest.approx([row["score"] for row in expected], abs=1e-5)
    drill("8 requests of one batch: 4 times 424, 4 times 200 with the scores of the text alone")


@pytest.mark.fault("the client has gone before its turn", "the text is not computed, and counted")
def test_a_text_whose_client_has_gone_is_not_computed(busy_server: Any, wait: Callable[..., None], drill: Drill) -> None:
    texts = busy_server.metric("valence_texts_total")
    with busy_server.slow_requests(1) as slow:
        for _ in range(3):
            abandon(busy_server, {"inputs": ["good", "bad"]})
        wait(lambda: busy_server.metric("valence_texts_dropped_total") == 6, timeout_s=SAFETY_S)
        assert slow[0].result(SAFETY_S).status_code == 200
    wait(lambda: busy_server.metric("valence_texts_total") == texts + 1, timeout_s=SAFETY_S)
    drill("3 clients left, 6 texts dropped, 0 of them computed")


@pytest.mark.fault("the deadline passes in the queue", "504, and not computed")
def test_a_text_whose_deadline_passes_in_the_queue_is_not_computed(
    busy_server: Any, wait: Callable[..., None], drill: Drill
) -> None:
    texts = busy_server.metric("valence_texts_total")
    with busy_server.slow_requests(1) as slow:
        late = busy_server.predict("good", headers={"x-request-timeout-s": "0.3"})
        assert (late.status_code, late.json()["error_type"]) == (504, "timeout")
        assert slow[0].result(SAFETY_S).status_code == 200
    wait(lambda: busy_server.metric("valence_texts_dropped_total") == 1, timeout_s=SAFETY_S)
    assert busy_server.metric("valence_texts_total") == texts + 1
    drill("504 after 0.3 s; dropped and counted, not computed")


@pytest.mark.fault("SIGTERM under load", "/ready 503 first, no accepted request lost, exit 0, no orphan")
def test_sigterm_under_load_loses_nothing(start_server: Callable[..., Any], drill: Drill) -> None:
    server = start_server("--http-processes", "2", "--drain-s", "3")
    with Traffic(server, threads=8, inputs="good") as traffic:
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        stopping_at = time.monotonic() + 3
        time.sleep(0.5)
        ready = httpx.get(server.url + "/ready", timeout=SAFETY_S, trust_env=False)
        time.sleep(0.5)
    assert ready.status_code == 503
    assert set(traffic.statuses) == {200}  # taken while it drains
    time.sleep(max(0.0, stopping_at - 0.8 - time.monotonic()))
    with ThreadPoolExecutor(4) as pool:  # in flight when it closes its doors
        last = [pool.submit(server.predict, "slow") for _ in range(4)]
        assert [future.result(SAFETY_S).status_code for future in last] == [200] * 4
    server.assert_stopped_cleanly()
    drill(f"/ready 503 while {traffic.statuses[200]} requests were answered 200, and 4 in flight at the end; exit 0, no orphan")


@pytest.mark.fault("10 times the capacity", "accepted ones stay quick, the rest 429 at once; memory flat")
def test_overload_is_refused_at_once(start_server: Callable[..., Any], full: bool, drill: Drill) -> None:
    """Every text takes the worker 50 ms, so 20 requests a second are all it can do, whatever the machine."""
    server = start_server("--http-processes", "1", "--max-concurrent-requests", "4", "--max-batch-tokens", "1")
    seconds = 60 if full else 4
    at_capacity = paced(server, rate=15, seconds=seconds / 2)
    memory = resident(server)
    overloaded = paced(server, rate=200, seconds=seconds)
    assert set(overloaded) == {200, 429}
    accepted, refused = p99(overloaded[200]), p99(overloaded[429])
    assert len(overloaded[429]) > 4 * len(overloaded[200])
    assert accepted < 2 * max(p99(at_capacity[200]), 4 * 0.05)
    assert refused < 0.25  # a generous bound; what was seen is in the table
    growth = resident(server) / memory - 1
    assert growth < 0.05
    assert server.predict("good").status_code == 200
    drill(
        f"{sum(map(len, overloaded.values())) / seconds:.0f} requests/s against a capacity of 20 for {seconds} s: accepted p99 "
        f"{1000 * accepted:.0f} ms, 429 p50 {1000 * sorted(overloaded[429])[len(overloaded[429]) // 2]:.1f} ms and p99 "
        f"{1000 * refused:.1f} ms, memory {growth:+.1%}"
    )


@pytest.mark.fault("a checkpoint that can't be served", "refused at the start, one sentence naming file and reason")
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("truncated", "model.safetensors"),
        ("another architecture", "no_such_model"),
        ("another tokenizer", "this tokenizer belongs to another checkpoint"),
        ("pickled", "pickled weights are not loaded"),
        ("weights of another architecture", "these are weights of another architecture"),
        ("other shapes", "but config.json asks for"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_sentence(
    launch: Callable[..., tuple[int, str]], models: Mapping[str, Path], tmp_path: Path, drill: Drill, damage: str, said: str
) -> None:
    folder = Path(shutil.copytree(models["tiny-bert"], tmp_path / "damaged"))
    shutil.copytree(models["keyword"], tmp_path / "other")
    damage_checkpoint(folder, damage)
    code, log = launch({"damaged": folder})
    assert code == 2, log
    last = json.loads(log.strip().splitlines()[-1])
    assert "Traceback" not in log
    assert (last["level"], last["logger"]) == ("error", "valence")
    assert damage == "another tokenizer" or str(folder) in last["message"]
    assert said in last["message"]
    drill(f"{damage}: exit 2, one line")


def damage_checkpoint(folder: Path, damage: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif damage == "weights of another architecture":
        shutil.copy(folder.parent / "other" / "model.safetensors", weights)
    elif damage == "pickled":
        weights.rename(folder / "pytorch_model.bin")
    else:
        changes = {
            "another architecture": {"model_type": "no_such_model"},
            "another tokenizer": {"vocab_size": 10},
            "other shapes": {"intermediate_size": config["intermediate_size"] + 16},
        }
        (folder / "config.json").write_text(json.dumps(config | changes[damage]))


def abandon(server: Any, body: dict[str, Any]) -> None:
    """Sends a request, and resets the connection before it is answered."""
    host, port = server.url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    with socket.create_connection((host, int(port)), timeout=SAFETY_S) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(content) + content)
        time.sleep(0.3)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def paced(server: Any, *, rate: float, seconds: float) -> dict[int, list[float]]:
    """Durations by status of requests for "nap", sent at a rate whatever comes back."""
    found: dict[int, list[float]] = {}
    lock = threading.Lock()

    def send() -> None:
        started_at = time.monotonic()
        status = server.predict("nap").status_code
        with lock:
            found.setdefault(status, []).append(time.monotonic() - started_at)

    with ThreadPoolExecutor(64) as pool:
        first = time.monotonic()
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, first + number / rate - time.monotonic()))
            pool.submit(send)
    return found


def p99(durations: list[float]) -> float:
    return sorted(durations)[max(0, int(0.99 * len(durations)) - 1)]


def resident(server: Any) -> int:
    """Bytes of memory of all processes."""
    main = psutil.Process(server.process.pid)
    return sum(process.memory_info().rss for process in [main, *main.children(recursive=True)])
