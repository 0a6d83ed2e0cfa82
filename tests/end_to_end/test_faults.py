"""The faults that a service must live through, each brought about on a real server.

`make drills` does them at full length and prints what was seen as a table."""

import asyncio
import json
import shutil
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

SAFETY_S = 60
Drill = Callable[[str], None]


class Gate:
    """Holds up every forward of a server while it is closed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def close(self) -> None:
        for left in self.folder.iterdir():
            left.unlink()
        (self.folder / "closed").touch()

    def open(self) -> None:
        (self.folder / "closed").unlink(missing_ok=True)

    def holds(self, worker: psutil.Process) -> bool:
        """Whether a forward of that process waits at the gate."""
        return (self.folder / str(worker.pid)).exists()


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("faults") / "gate")


@pytest.fixture(scope="module")
def gated(server_of: Callable[..., Any], models: Mapping[str, Path], gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with two HTTP processes, one worker whose forwards wait at the gate, and a watchdog of a few seconds."""
    folder = Path(shutil.copytree(models["failing"], tmp_path_factory.mktemp("gated") / "failing"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "gate": str(gate.folder)}))
    return server_of({"failing": folder}, "--http-processes", "2", "--watchdog-s", "3")


@pytest.fixture
def busy_server(gated: Any, gate: Gate) -> Iterator[Any]:
    """The server as it was at its start, except for its counts and, once memory ran out, the size of its batches."""
    yield gated
    gate.open()
    gated.wait_until_ready()


@contextmanager
def held_up(server: Any, gate: Gate, wait: Callable[..., None], texts: Sequence[str]) -> Iterator[list[Future[httpx.Response]]]:
    """A request for each text. The first is alone in a forward, which waits at the gate; the others wait in the queue."""
    gate.close()
    with ThreadPoolExecutor(len(texts)) as pool:
        try:
            futures = []
            for text in texts:
                futures.append(pool.submit(server.predict, text))
                wait(lambda: gate.holds(server.worker()), timeout_s=SAFETY_S, alive=server)
            wait(lambda: server.metric("valence_requests_in_flight") == len(texts), timeout_s=SAFETY_S, alive=server)
            yield futures
        finally:
            gate.open()


def readiness(server: Any) -> set[int]:
    """The answers of `/ready` on fresh connections, so that each HTTP process is likely to be asked."""
    return {httpx.get(server.url + "/ready", timeout=SAFETY_S, trust_env=False).status_code for _ in range(8)}


class Traffic:
    """Threads that send until the block ends. `statuses` counts what came back, by status or by the name of the error."""

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
def test_a_worker_killed_again_and_again(
    busy_server: Any, gate: Gate, wait: Callable[..., None], full: bool, drill: Drill
) -> None:
    kills = 20 if full else 3
    restarts = busy_server.metric("valence_worker_restarts_total")
    slowest_503_s = slowest_back_s = 0.0
    for _ in range(kills):
        with held_up(busy_server, gate, wait, ["good"] * 4) as futures:
            killed_at = time.monotonic()
            busy_server.worker().kill()
            statuses = Counter(future.result(SAFETY_S).status_code for future in futures)
            slowest_503_s = max(slowest_503_s, time.monotonic() - killed_at)
            assert statuses == {503: 4}
            wait(lambda: any(map(gate.holds, busy_server.workers())), timeout_s=SAFETY_S, alive=busy_server)
            assert readiness(busy_server) == {503}  # the new worker's first forward still waits
            assert busy_server.metric("valence_worker_up") == 0
        busy_server.wait_until_ready()
        slowest_back_s = max(slowest_back_s, time.monotonic() - killed_at)
        assert busy_server.predict("good").status_code == 200
    assert busy_server.metric("valence_worker_restarts_total") == restarts + kills
    assert slowest_503_s < 1
    drill(
        f"{kills} kills, {4 * kills} requests in flight: all 503 within {slowest_503_s:.2f} s; /ready 503 until a forward; ready "
        f"again within {slowest_back_s:.1f} s"
    )


@pytest.mark.fault("a forward never ends", "the watchdog notices, /ready 503, the worker is replaced")
@pytest.mark.parametrize("word", ["stuck", "frozen"], ids=["asleep", "holding Python's lock"])
def test_a_stuck_worker_is_replaced(busy_server: Any, gate: Gate, wait: Callable[..., None], drill: Drill, word: str) -> None:
    restarts = busy_server.metric("valence_worker_restarts_total")
    said = len(busy_server.log.read_text())
    started_at = time.monotonic()
    answer = busy_server.predict(word)
    noticed_s = time.monotonic() - started_at
    gate.close()
    assert (answer.status_code, answer.json()["error_type"]) == (503, "unhealthy")
    assert noticed_s > 2  # the watchdog's limit is 3 s
    wait(lambda: any(map(gate.holds, busy_server.workers())), timeout_s=SAFETY_S, alive=busy_server)
    assert readiness(busy_server) == {503}
    gate.open()
    busy_server.wait_until_ready()
    assert busy_server.predict("good").status_code == 200
    assert busy_server.metric("valence_worker_restarts_total") == restarts + 1
    assert "failing_architecture.py" in busy_server.log.read_text()[said:]  # the log says where it hung
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
    assert broken <= 4  # at most one connection of each thread, which the killed process held
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
def test_a_text_that_fails_fails_alone(busy_server: Any, gate: Gate, wait: Callable[..., None], drill: Drill) -> None:
    expected = busy_server.predict("a wonderful film").json()
    time.sleep(0.2)  # by then its batch is counted
    batches = busy_server.metric("valence_batch_texts_count")
    failures = busy_server.metric("valence_failures_total", error_type="backend")
    with held_up(busy_server, gate, wait, ["good", *["a wonderful film", "poison"] * 4]) as futures:
        gate.open()
        answers = [future.result(SAFETY_S) for future in futures[1:]]
    assert [answer.status_code for answer in answers] == [200, 424] * 4
    for answer in answers[::2]:
        assert [row["score"] for row in answer.json()] == pytest.approx([row["score"] for row in expected], abs=1e-5)
    wait(lambda: busy_server.metric("valence_batch_texts_count") == batches + 2, timeout_s=SAFETY_S)  # one text, then eight
    assert busy_server.metric("valence_failures_total", error_type="backend") == failures + 4
    drill("8 requests of one batch: 4 times 424, 4 times 200 with the scores of the text alone")


@pytest.mark.fault("the client has gone before its turn", "the text is not computed, and counted")
def test_a_text_whose_client_has_gone_is_not_computed(
    busy_server: Any, gate: Gate, wait: Callable[..., None], drill: Drill
) -> None:
    texts, dropped = busy_server.metric("valence_texts_total"), busy_server.metric("valence_texts_dropped_total")
    with held_up(busy_server, gate, wait, ["good"]) as first:
        for _ in range(3):
            abandon(busy_server, {"inputs": ["good", "bad"]}, wait)
        wait(lambda: busy_server.metric("valence_texts_dropped_total") == dropped + 6, timeout_s=SAFETY_S)
        gate.open()
        assert first[0].result(SAFETY_S).status_code == 200
    assert busy_server.predict("good").status_code == 200  # all that was queued before it has had its turn
    wait(lambda: busy_server.metric("valence_texts_total") == texts + 2, timeout_s=SAFETY_S)
    drill("3 clients left, 6 texts dropped, 0 of them computed")


@pytest.mark.fault("the deadline passes in the queue", "504, and not computed")
def test_a_text_whose_deadline_passes_in_the_queue_is_not_computed(
    busy_server: Any, gate: Gate, wait: Callable[..., None], drill: Drill
) -> None:
    texts, dropped = busy_server.metric("valence_texts_total"), busy_server.metric("valence_texts_dropped_total")
    with held_up(busy_server, gate, wait, ["good"]) as first:
        late = busy_server.predict("good", headers={"x-request-timeout-s": "0.3"})
        assert (late.status_code, late.json()["error_type"]) == (504, "timeout")
        gate.open()
        assert first[0].result(SAFETY_S).status_code == 200
    assert busy_server.predict("good").status_code == 200
    wait(lambda: busy_server.metric("valence_texts_dropped_total") == dropped + 1, timeout_s=SAFETY_S)
    wait(lambda: busy_server.metric("valence_texts_total") == texts + 2, timeout_s=SAFETY_S)
    drill("504 after 0.3 s; dropped and counted, not computed")


@pytest.mark.fault(
    "a checkpoint folder is deleted, then the worker dies", "each start counted, ever rarer; back once the folder is"
)
def test_a_worker_that_cannot_load_its_models_tries_ever_more_rarely(
    server_of: Callable[..., Any], models: Mapping[str, Path], tmp_path: Path, wait: Callable[..., None], drill: Drill
) -> None:
    folder = Path(shutil.copytree(models["failing"], tmp_path / "failing"))
    server = server_of({"failing": folder}, "--http-processes", "1")
    folder.rename(tmp_path / "deleted")
    server.worker().kill()
    wait(lambda: server.metric("valence_worker_restarts_total", device="cpu/0") >= 4, timeout_s=SAFETY_S, alive=server)
    said = [line["message"] for line in server.lines() if "tries again" in line["message"]]
    assert [message.rpartition(" in ")[2] for message in said][:3] == ["1 s", "2 s", "4 s"]
    assert len(said) == server.metric("valence_worker_restarts_total") - 1  # the first start followed a worker that was ready
    assert server.predict("good").status_code == 503
    (tmp_path / "deleted").rename(folder)
    server.wait_until_ready()
    assert server.predict("good").status_code == 200
    drill("4 starts counted with 1, 2 and 4 s between them; requests 503 meanwhile; ready by itself once the folder was back")


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
    assert set(traffic.statuses) == {200}  # all were taken while the service drained
    time.sleep(max(0.0, stopping_at - 0.8 - time.monotonic()))
    with ThreadPoolExecutor(4) as pool:  # in flight when the service stops taking requests
        last = [pool.submit(server.predict, "slow") for _ in range(4)]
        assert [future.result(SAFETY_S).status_code for future in last] == [200] * 4
    server.assert_stopped_cleanly()
    drill(f"/ready 503 while {traffic.statuses[200]} requests were answered 200, and 4 in flight at the end; exit 0, no orphan")


async def ask_until_refused(server: Any, seen: Counter[str], *, pause_s: float) -> None:
    """Sends over one connection, or a new one where an answer says that it was the last, until none is taken any more."""
    host, port = server.url.removeprefix("http://").split(":")
    body = b'{"inputs": "good"}'
    request = b"POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except ConnectionRefusedError:
            return
        last = False
        while not last:
            try:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                seen[type(error).__name__] += 1
                break
            last = b"connection: close" in head
            seen[f"{head.split()[1].decode()}{', the last' if last else ''}"] += 1
            await asyncio.sleep(pause_s)
        writer.close()


@pytest.mark.fault("SIGTERM, clients with kept connections", "every request answered that was sent before the service took none")
def test_a_drain_loses_nothing(start_server: Callable[..., Any], full: bool, drill: Drill) -> None:
    seen: Counter[str] = Counter()
    drains = 20 if full else 1

    async def drain_one() -> None:
        server = start_server("--http-processes", "2", "--drain-s", "0.5")
        clients = [asyncio.create_task(ask_until_refused(server, seen, pause_s=0.2 * (place % 4))) for place in range(64)]
        await asyncio.sleep(2)
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SAFETY_S):
            await asyncio.gather(*clients)
        server.assert_stopped_cleanly()

    for _ in range(drains):
        asyncio.run(drain_one())
    assert set(seen) == {"200", "200, the last"}
    assert seen["200, the last"] >= 64 * drains
    drill(
        f"{drains} drains with 64 clients: {seen.total()} requests answered 200, {seen['200, the last']} of them the last; 0 lost"
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


def abandon(server: Any, body: dict[str, Any], wait: Callable[..., None]) -> None:
    """Sends a request, and resets the connection once it is in flight. Returns when the service has noticed."""
    host, port = server.url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    others = server.metric("valence_requests_in_flight")
    with socket.create_connection((host, int(port)), timeout=SAFETY_S) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(content) + content)
        wait(lambda: server.metric("valence_requests_in_flight") == others + 1, timeout_s=SAFETY_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait(lambda: server.metric("valence_requests_in_flight") == others, timeout_s=SAFETY_S)
