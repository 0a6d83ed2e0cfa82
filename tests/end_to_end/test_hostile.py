"""Clients that mean harm or are broken: each gets a clean refusal in bounded time, and others are served meanwhile."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

SAFETY_S = 60
CLOSED = (BrokenPipeError, ConnectionResetError)
LIMIT = 3_000_000
POST = b"POST /predict HTTP/1.1\r\nhost: test\r\n"
MILLION = 1_000_000
MOST_GROWTH = 600_000_000  # bytes of the HTTP process in all tests: 300 for each of the 2,000,000 characters of the largest texts
Drill = Callable[[str], None]
pytestmark = pytest.mark.fault(
    "slow and half-open connections, endless, huge, deep and malformed bodies and heads",
    "the right 4xx in bounded memory and time, the others unaffected",
)


@pytest.fixture(scope="module")
def target(start_server: Callable[..., Any]) -> Any:
    """A server with one HTTP process, so that what blocks it blocks every client."""
    return start_server(
        "--http-processes",
        "1",
        "--payload-limit",
        str(LIMIT),
        "--max-text-characters",
        str(MILLION + 1),
        names=("tiny-bert", "tiny-lstm"),
    )


@pytest.fixture(scope="module", autouse=True)
def memory_before(target: Any) -> int:
    assert target.predict("good").status_code == 200
    return resident(target)


def resident(target: Any) -> int:
    """The memory of the HTTP process in bytes."""
    (process,) = target.http_processes()
    return int(process.memory_info().rss)


@pytest.fixture(autouse=True)
def neighbours_are_served(target: Any) -> Iterator[None]:
    """Another client sends on a connection of its own all through each test."""
    stop = Event()

    def ask() -> set[int]:
        statuses = set()
        with httpx.Client(base_url=target.url, timeout=SAFETY_S, trust_env=False) as neighbour:
            while not stop.wait(0.05):
                statuses.add(neighbour.post("/predict", json={"inputs": "good", "model": "tiny-lstm"}).status_code)
            return statuses | {neighbour.post("/predict", json={"inputs": "good"}).status_code}

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        yield
        stop.set()
        assert asked.result(SAFETY_S) == {200}


UNFINISHED = {"nothing": b"", "a line": b"\r\n", "a verb": b"POST /pre", "a header": POST + b"x: "}


@pytest.fixture(scope="module", autouse=True)
def unfinished(target: Any) -> Iterator[Mapping[str, socket.socket]]:
    """Connections whose heads never end. They are opened before all else, since they are given up after ten seconds."""
    with contextlib.ExitStack() as stack:
        begun = {name: stack.enter_context(connected(target)) for name in UNFINISHED}
        for name, connection in begun.items():
            connection.sendall(UNFINISHED[name])
        yield begun


@contextmanager
def connected(target: Any) -> Iterator[socket.socket]:
    host, port = target.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=SAFETY_S) as connection:
        yield connection


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str]]:
    """Status and body of one response; status 0 and nothing if the connection ends first."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65_536)
        if not piece:
            return 0, {}
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65_536)
    return int(head.split()[1]), json.loads(body)


def send_until_closed(connection: socket.socket, piece: bytes, *, pause_s: float = 0) -> None:
    for _ in range(1000):
        connection.sendall(piece)
        time.sleep(pause_s)


def send(target: Any, data: bytes) -> tuple[int, dict[str, str]]:
    with connected(target) as connection:
        connection.sendall(data)
        return read_answer(connection)


def post(target: Any, path: str, content: bytes) -> httpx.Response:
    """Sends a body on a connection of its own, which the service may close after a body that it refused."""
    return httpx.post(target.url + path, content=content, timeout=SAFETY_S, trust_env=False)


# -- bodies -----------------------------------------------------------------------------------------------------------------

BODIES = {
    "deep array": (b'{"inputs": ' + b"[" * MILLION, 400),
    "deep array, closed": (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "deep object": (b'{"a":' * 200_000, 400),
    "deep in a field that is ignored": (b'{"inputs": "good", "x": ' + b"[" * 1000 + b"]" * 1000 + b"}", 400),
    "100,000 keys": (json.dumps({**{f"k{number}": number for number in range(100_000)}, "inputs": "good"}).encode(), 200),
    "100,000 times one key": (b"{" + b'"inputs": "good", ' * 100_000 + b'"inputs": "bad"}', 200),
    "escaped NUL": (rb'{"inputs": "go\u0000od"}', 200),
    "only escaped NUL": (rb'{"inputs": "\u0000\u0000"}', 200),
    "raw NUL": (b'{"inputs": "go\0od"}', 400),
    "NUL behind the body": (b'{"inputs": "good"}\0', 400),
    "escaped lone surrogate": (rb'{"inputs": "\ud800"}', 400),
    "escaped surrogates, swapped": (rb'{"inputs": "\udc00\ud800"}', 400),
    "raw lone surrogate": (b'{"inputs": "\xed\xa0\x80"}', 400),
    "overlong UTF-8": (b'{"inputs": "\xc0\xaf"}', 400),
    "Latin-1": ('{"inputs": "café"}'.encode("latin-1"), 400),
    "UTF-16": ('{"inputs": "good"}'.encode("utf-16"), 400),
    "UTF-8 with a mark": (b'\xef\xbb\xbf{"inputs": "good"}', 200),
    "noncharacters": ('{"inputs": "\\uffff\\ufffe \U0010ffff"}'.encode(), 200),
    "zero-length texts": (json.dumps({"inputs": [""] * 200}).encode(), 400),
    "zero-length pairs": (json.dumps({"inputs": [["", ""]] * 200}).encode(), 400),
    "only spaces": (json.dumps({"inputs": " " * MILLION}).encode(), 200),
    "combining marks": (json.dumps({"inputs": "a" + "\u0301" * 400_000}).encode(), 200),
    "a character that becomes 18": (json.dumps({"inputs": "\ufdfa" * 600_000}, ensure_ascii=False).encode(), 422),
    "texts whose characters become 18": (json.dumps({"inputs": ["\ufdfa" * 20_000] * 30}, ensure_ascii=False).encode(), 422),
    "a million texts": (b'{"inputs": [' + b'"",' * 500_000 + b'"a"]}', 400),
    "257 texts": (json.dumps({"inputs": ["a"] * 257}).encode(), 422),
    "a number of 100,000 digits": (b'{"inputs": "good", "parameters": {"top_k": ' + b"9" * 100_000 + b"}}", 400),
    "a number that overflows": (b'{"inputs": "good", "parameters": {"top_k": 1e400}}', 422),
    "NaN": (b'{"inputs": "good", "parameters": {"top_k": NaN}}', 422),
    "10 MB": (b'{"inputs": "' + b"a" * 10_000_000 + b'"}', 413),
}


@pytest.mark.parametrize(("body", "status"), list(BODIES.values()), ids=list(BODIES))
def test_a_hostile_body_is_answered(target: Any, body: bytes, status: int) -> None:
    answer = post(target, "/predict", body)
    assert answer.status_code == status
    assert len(answer.content) < 1000  # nothing of the body comes back


@pytest.mark.parametrize("path", ["/tokenize", "/v2/models/tiny-bert/infer"])
@pytest.mark.parametrize("name", [name for name, (_, status) in BODIES.items() if status in (400, 413) and "zero" not in name])
def test_other_routes_refuse_what_is_no_json(target: Any, path: str, name: str) -> None:
    assert post(target, path, BODIES[name][0]).status_code in (400, 413, 422)


@pytest.mark.parametrize("word", ["a" * MILLION, "😍" * 250_000, "ab" * 500_000 + "!"], ids=["letters", "emoji", "syllables"])
@pytest.mark.parametrize("model", ["tiny-bert", "tiny-lstm"])
def test_a_word_of_a_million_characters_is_scored(target: Any, model: str, word: str) -> None:
    assert target.predict(word, model=model).status_code == 200
    whole = target.predict(word, model=model, truncate=False)
    one_token = model == "tiny-bert" and word.isascii()  # WordPiece makes so long a word one unknown token
    assert whole.status_code == (200 if one_token else 422)


# -- heads ------------------------------------------------------------------------------------------------------------------

HEADS = {
    "content-length: abc": (POST + b"content-length: abc\r\n\r\n", 400),
    "content-length: -1": (POST + b"content-length: -1\r\n\r\n", 400),
    "content-length: 1e3": (POST + b"content-length: 1e3\r\n\r\n", 400),
    "content-length of 30 digits": (POST + b"content-length: " + b"9" * 30 + b"\r\n\r\n", 400),
    "two lengths": (POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n", 400),
    "length and chunks": (POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a chunk's size": (POST + b"transfer-encoding: chunked\r\n\r\nxyz\r\n", 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10, 400),
    "a space in a name": (POST + b"a b: c\r\n\r\n", 400),
    "NUL in a value": (POST + b"a: b\0c\r\n\r\n", 400),
    "a value of 10 MB": (POST + b"x: " + b"a" * 10_000_000 + b"\r\n\r\n", 431),
    "a value of 40 KB": (POST + b"x: " + b"a" * 40_000 + b"\r\ncontent-length: 0\r\n\r\n", 431),
    "a name of 10 MB": (POST + b"x" * 10_000_000 + b": a\r\n\r\n", 431),
    "100,000 headers": (POST + b"".join(b"x-%d: a\r\n" % number for number in range(100_000)) + b"\r\n", 431),
    "a path of 10 MB": (b"GET /" + b"a" * 10_000_000 + b" HTTP/1.1\r\nhost: test\r\n\r\n", 431),
}


@pytest.mark.parametrize(("data", "status"), list(HEADS.values()), ids=list(HEADS))
def test_a_hostile_head_is_refused_and_the_connection_closed(target: Any, data: bytes, status: int) -> None:
    with connected(target) as connection:
        with contextlib.suppress(*CLOSED):  # it may be refused before it was sent whole
            connection.sendall(data)
        try:
            found, answer = read_answer(connection)
        except ConnectionResetError:
            # Bytes that were still on their way when the connection was closed may cost the answer.
            assert status == 431
            return
        assert (found, set(answer), answer["error_type"]) == (status, {"error", "error_type"}, "validation")
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""


@pytest.mark.parametrize("value", [b"a\x7fb", b"\xff\xfe", b"a" * 20_000, b"a\tb", b"\x80" * 200])
def test_a_request_id_of_any_bytes_is_no_fault_of_ours(target: Any, value: bytes) -> None:
    status, answer = send(target, b"GET /none HTTP/1.1\r\nhost: test\r\nx-request-id: " + value + b"\r\n\r\n")
    assert status in (400, 404)
    assert answer["error_type"] in ("validation", "not_found")


def test_a_head_of_usual_size_is_taken(target: Any) -> None:
    assert target.client.get("/health", headers={"x": "a" * 30_000}).status_code == 200


def test_requests_in_one_piece_are_answered_in_their_order(target: Any) -> None:
    """The heads in one packet have more bytes than one head may have."""
    count = 600
    with connected(target) as connection:
        connection.sendall(b"".join(b"GET /p%03d%s HTTP/1.1\r\nhost: test\r\n\r\n" % (n, b"a" * 60) for n in range(count)))
        received = b""
        while received.count(b"HTTP/1.1 404") < count:
            piece = connection.recv(65_536)
            assert piece
            received += piece


# -- time -------------------------------------------------------------------------------------------------------------------

DEADLINE = b"x-request-timeout-s: 1\r\n"


def test_a_body_that_stops_halfway_is_504(target: Any) -> None:
    status, answer = send(target, POST + DEADLINE + b'content-length: 100\r\n\r\n{"inputs": ')
    assert (status, answer["error_type"]) == (504, "timeout")


def test_a_body_that_trickles_is_504(target: Any) -> None:
    with connected(target) as connection:
        connection.sendall(POST + DEADLINE + b"content-length: 1000\r\n\r\n")
        for _ in range(15):
            connection.sendall(b" ")
            time.sleep(0.1)
        status, answer = read_answer(connection)
    assert (status, answer["error_type"]) == (504, "timeout")


def test_a_body_that_drips_is_408(target: Any) -> None:
    with connected(target) as connection:
        connection.sendall(POST + b"content-length: 1000\r\n\r\n")
        begun_at = time.monotonic()
        connection.settimeout(0.5)
        while True:
            connection.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                status, answer = read_answer(connection)
                break
    assert (status, answer["error_type"]) == (408, "timeout")
    assert time.monotonic() - begun_at < 15


def test_a_client_that_closes_halfway_leaves_nothing_behind(target: Any, wait: Callable[..., None]) -> None:
    with connected(target) as connection:
        connection.sendall(POST + b"content-length: 100\r\n\r\n{")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    wait(lambda: target.metric("valence_requests_in_flight") == 0, timeout_s=SAFETY_S)


def test_an_endless_body_is_413_and_the_connection_ends(target: Any) -> None:
    piece = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    with connected(target) as connection:
        connection.sendall(POST + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(2 * LIMIT // 65_536):
            connection.sendall(piece)
        assert read_answer(connection)[0] == 413
        with pytest.raises(CLOSED):
            send_until_closed(connection, piece, pause_s=0.05)


def test_endless_trailers_end_the_connection(target: Any) -> None:
    with connected(target) as connection:
        connection.sendall(POST + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ")
        with pytest.raises(CLOSED):
            send_until_closed(connection, b"a" * 65_536)


@pytest.mark.parametrize("sent", list(UNFINISHED))
def test_a_head_that_never_ends_is_given_up(unfinished: Mapping[str, socket.socket], sent: str) -> None:
    status, _ = read_answer(unfinished[sent])
    assert status == (408 if UNFINISHED[sent] else 0)


def test_a_client_that_reads_nothing_holds_up_nobody(target: Any, wait: Callable[..., None]) -> None:
    """The answers have 10 MB each, more than a socket's buffer takes."""
    body = json.dumps({"inputs": "a " * 200_000}).encode()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(connected(target))
            head = b"POST /tokenize HTTP/1.1\r\nhost: test\r\ncontent-length: %d\r\n\r\n" % len(body)
            connection.sendall(head + body)
        wait(lambda: target.metric("valence_requests_in_flight") == 0, timeout_s=SAFETY_S)
        assert target.predict("good").status_code == 200


def test_large_texts_of_many_clients_are_tokenized_one_after_another(target: Any) -> None:
    """Each tokenization takes 60 MB while it lasts."""
    (process,) = target.http_processes()
    before = resident(target)
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak of memory is counted anew
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: target.predict("a " * 100_000), range(6)))
    assert {answer.status_code for answer in answers} == {200}
    peak = re.search(r"^VmHWM:\s*(\d+) kB$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    assert peak
    assert int(peak[1]) * 1024 - before < 180_000_000


def test_a_large_text_whose_turn_comes_too_late_is_504_and_not_tokenized(target: Any, wait: Callable[..., None]) -> None:
    count = "valence_tokenization_duration_seconds_count"
    before = target.metric(count, model="tiny-bert")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(target.predict, ["a " * 450_000] * 2)
        wait(lambda: target.metric("valence_requests_in_flight") >= 1, timeout_s=SAFETY_S)
        late = pool.submit(target.predict, "a " * 450_000, headers={"x-request-timeout-s": "0.2"})
        assert first.result(SAFETY_S).status_code == 200
        assert late.result(SAFETY_S).status_code == 504
    wait(lambda: target.metric("valence_requests_in_flight") == 0, timeout_s=SAFETY_S)
    assert target.metric(count, model="tiny-bert") == before + 1


def test_afterwards_nothing_failed_inside(target: Any, memory_before: int, drill: Drill) -> None:
    assert target.metric("valence_failures_total", error_type="internal") == 0
    assert "Traceback" not in target.log.read_text()
    growth = resident(target) - memory_before
    assert growth < MOST_GROWTH
    drill(f"no fault inside, no stack in the log; the HTTP process grew by {growth / 1e6:.0f} MB")
