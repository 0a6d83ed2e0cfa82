"""A server's answers against a reference."""

import json
import math
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from load_tests.bench.answers import AnswerError, ask, compare
from load_tests.bench.api import Api, read_data_pairs, read_data_probabilities, read_pairs

LABELS = ["negative", "neutral", "positive"]
EXPECTED = [{"negative": 0.7, "neutral": 0.2, "positive": 0.1}] * 40


def moved(by: float, *, texts: int = 40) -> list[dict[str, float]]:
    """`EXPECTED` with a part of the first label's probability given to the second, in the first `texts`."""
    changed = {"negative": 0.7 - by, "neutral": 0.2 + by, "positive": 0.1}
    return [changed if place < texts else expected for place, expected in enumerate(EXPECTED)]


@pytest.mark.parametrize(
    ("dtype", "by", "texts", "failure"),
    [
        ("float32", 0.0009, 40, ""),
        ("float32", 0.0011, 1, "a probability differs by 0.0011"),
        ("int8", 0.0011, 40, ""),
        ("int8", 0.2, 4, ""),
        ("int8", 0.04, 40, "probabilities differ by 0.027 on average"),
        ("bfloat16", 0.3, 2, ""),
        ("bfloat16", 0.3, 3, "92.5% of the top labels are equal"),
        ("float32", math.nan, 1, "a probability differs by nan"),
        ("int8", math.nan, 1, "a probability differs by nan"),
    ],
)
def test_the_tolerance_is_that_of_the_dtype(dtype: str, by: float, texts: int, failure: str) -> None:
    found = compare(moved(by, texts=texts), EXPECTED, dtype=dtype).failure
    assert found.startswith(failure) if failure else not found


def test_what_is_found_is_reported() -> None:
    check = compare(moved(0.3, texts=10), EXPECTED, dtype="int8")
    assert check.texts == 40
    assert check.max_difference == pytest.approx(0.3)
    assert check.mean_difference == pytest.approx(0.3 * 2 / 3 / 4)
    assert check.equal_labels == 0.75


@pytest.mark.parametrize(("found", "message"), [(EXPECTED[:-1], "40 texts were answered with 39"), ([{"x": 1.0}] * 40, "labels")])
def test_a_text_without_an_answer_is_an_error(found: list[dict[str, float]], message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        compare(found, EXPECTED, dtype="int8")


def pairs(scores: dict[str, float]) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in sorted(scores.items(), key=lambda pair: -pair[1])]


ROWS = [{"negative": 0.7, "neutral": 0.2, "positive": 0.1}, {"negative": 0.1, "neutral": 0.3, "positive": 0.6}]
PROBABILITIES = [{"index": place, "probs": list(row.values())} for place, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("read", "answer"),
    [
        (read_pairs, [pairs(row) for row in ROWS]),
        (read_data_pairs, {"data": [pairs(row) for row in ROWS]}),
        (read_data_probabilities, {"data": PROBABILITIES[::-1]}),
    ],
)
def test_the_form_of_each_server_is_read(read: Any, answer: Any) -> None:
    assert read(answer, LABELS) == ROWS


class Handler(BaseHTTPRequestHandler):
    """Answers with a score that is the text's own number."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        inputs = json.loads(self.rfile.read(int(self.headers["content-length"])))["inputs"]
        rows = [pairs({"a": float(text), "b": 0.0}) for text in ([inputs] if isinstance(inputs, str) else inputs)]
        good = self.path == "/predict"
        content = json.dumps({"error": "no"} if not good else rows[0] if isinstance(inputs, str) else rows).encode()
        self.send_response(200 if good or self.path == "/odd" else 503)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # of the default's 5, connections that come together are refused and tried again a second later


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_answers_come_in_the_order_of_the_texts(base_url: str) -> None:
    texts = [str(number) for number in range(95)]
    assert [scores["a"] for scores in ask(base_url, Api(), texts, ["a", "b"])] == [float(text) for text in texts]


@pytest.mark.parametrize(("route", "message"), [("/busy", "status 503"), ("/odd", "unreadable answer")])
def test_an_answer_that_is_none_is_an_error(base_url: str, route: str, message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        ask(base_url, Api(route=route), ["1", "2"], ["a", "b"])


def test_a_server_that_is_gone_is_an_error() -> None:
    with pytest.raises(AnswerError, match="refused"):
        ask("http://127.0.0.1:9", Api(), ["1"], ["a", "b"])
