"""What the clients send, what they try again, and what they raise, against a server that answers by a script."""

import asyncio
import itertools
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client import (
    AsyncClient,
    Client,
    Conflict,
    Forbidden,
    HeadTooLarge,
    InvalidRequest,
    LabelScore,
    ModelFailed,
    NotFound,
    Overloaded,
    Retries,
    TimedOut,
    TooSlow,
    Unauthorized,
    Unavailable,
    Unreachable,
    UnsupportedEncoding,
    ValenceError,
)
from service.client.clients import LIMITS
from service.client.failures import seconds_of
from service.settings import Settings

ROOT = Path(__file__).parent.parent.parent.parent
HASTY = {"retries": Retries(count=3, first_s=0.001, longest_s=0.002)}
Call = Callable[..., Any]


def echoed(texts: list[str]) -> list[list[LabelScore]]:
    return [[LabelScore(text, 1.0)] for text in texts]


# -- retries ----------------------------------------------------------------------------------------------------------------


def test_overload_no_worker_and_a_broken_connection_are_tried_again(call: Call, service: Call, scripted: Any) -> None:
    running = service(scripted(429), scripted(503), scripted(0))
    assert call(running.url, "predict", "good", client=HASTY) == [LabelScore("good", 1.0)]
    assert len(running.seen) == 4


@pytest.mark.parametrize(("status", "kind"), [(429, Overloaded), (503, Unavailable), (0, Unreachable)])
def test_attempts_come_to_an_end(call: Call, service: Call, scripted: Any, status: int, kind: type[ValenceError]) -> None:
    running = service(*[scripted(status)] * 9)
    with pytest.raises(kind):
        call(running.url, "predict", "good", client=HASTY)
    assert len(running.seen) == 1 + 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (405, NotFound),
        (408, TooSlow),
        (409, Conflict),
        (413, InvalidRequest),
        (415, UnsupportedEncoding),
        (422, InvalidRequest),
        (424, ModelFailed),
        (431, HeadTooLarge),
        (500, ValenceError),
        (504, TimedOut),
    ],
)
def test_what_will_not_pass_is_raised_at_once(
    call: Call, service: Call, scripted: Any, status: int, kind: type[ValenceError]
) -> None:
    running = service(scripted(status))
    with pytest.raises(kind) as caught:
        call(running.url, "predict", "good", client=HASTY)
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.error_type, error.message, error.request_id) == (
        status,
        f"type-{status}",
        f"said {status}",
        "id-1",
    )
    assert str(error) == f"{status} type-{status}: said {status} (request id-1)"
    assert len(running.seen) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for(call: Call, service: Call, scripted: Any, status: int) -> None:
    running = service(scripted(status, {"retry-after": "1"}))
    call(running.url, "predict", "good", client=HASTY)
    first, second = running.seen
    assert second.at - first.at >= 1


def test_a_wait_beyond_the_deadline_is_not_begun(call: Call, service: Call, scripted: Any) -> None:
    running = service(scripted(429, {"retry-after": "3600"}))
    with pytest.raises(Overloaded) as caught:
        call(running.url, "predict", "good", timeout_s=60)
    assert caught.value.retry_after_s == 3600
    assert len(running.seen) == 1


def test_the_deadline_is_that_of_all_attempts(call: Call, service: Call, scripted: Any) -> None:
    running = service(*[scripted(503)] * 1000)
    patient = {"retries": Retries(count=1000, first_s=0.02, longest_s=0.02)}
    with pytest.raises((Unavailable, TimedOut)):
        call(running.url, "predict", "good", client=patient, timeout_s=0.3)
    told = [float(seen.headers["x-request-timeout-s"]) for seen in running.seen]
    assert 2 < len(told) < 1000
    assert told == sorted(told, reverse=True)
    assert 0 < told[-1] < told[0] <= 0.3


def test_an_answer_that_does_not_come_is_timed_out(call: Call, service: Call, scripted: Any) -> None:
    running = service(scripted(200, after_s=60))
    with pytest.raises(TimedOut) as caught:
        call(running.url, "predict", "good", timeout_s=0.2)
    assert caught.value.status is None
    assert len(running.seen) == 1


def test_no_server_is_unreachable(call: Call) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(Unreachable) as caught:
        call(url, "predict", "good", client=HASTY)
    assert (caught.value.status, caught.value.request_id) == (None, None)
    assert call(url, "ready") is False


@pytest.mark.parametrize(("failures", "longest_s"), [(1, 0.1), (2, 0.2), (4, 0.8), (9, 5.0), (20, 5.0)])
@pytest.mark.parametrize("retry_after_s", [None, 2.0])
def test_pauses_are_spread_over_a_time_that_doubles(failures: int, longest_s: float, retry_after_s: float | None) -> None:
    pauses = [Retries().pause_s(failures, retry_after_s=retry_after_s) - (retry_after_s or 0) for _ in range(2000)]
    assert 0 <= min(pauses) < 0.1 * longest_s
    assert 0.9 * longest_s < max(pauses) <= longest_s * (1 + 1e-9)


def test_retry_after_may_be_a_date() -> None:
    assert seconds_of(formatdate(time.time() + 100, usegmt=True)) == pytest.approx(100, abs=10)


@pytest.mark.parametrize(("value", "seconds"), [("0", 0), ("17", 17), ("", None), ("soon", None), ("-1", None)])
def test_retry_after_is_seconds_or_nothing(value: str, seconds: float | None) -> None:
    assert seconds_of(value) == seconds


# -- errors -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"<html>Bad Gateway</html>", b'["a", "list"]', b""])
def test_an_error_that_is_not_the_services_is_told_by_its_phrase(call: Call, service: Call, scripted: Any, body: bytes) -> None:
    running = service(scripted(502, body=body))
    with pytest.raises(ValenceError) as caught:
        call(running.url, "predict", "good")
    assert (caught.value.status, caught.value.error_type, caught.value.message) == (502, "http", "Bad Gateway")


def test_an_error_crosses_processes() -> None:
    error = Overloaded("later", "overloaded", 429, "id-1", 2.0)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.retry_after_s) == (Overloaded, str(error), 2.0)


def test_an_error_in_a_long_list_tells_which_texts_it_is_about(call: Call, service: Call, scripted: Any) -> None:
    running = service(scripted(422))
    with pytest.raises(InvalidRequest) as caught:
        call(running.url, "predict", [f"text {number}" for number in range(5)], client={"texts_per_request": 5})
    assert not hasattr(caught.value, "__notes__")
    running.script = [scripted(200), scripted(200), scripted(422)]
    running.delay_s = lambda: 60.0
    texts = [f"text {number}" for number in range(9)]
    with pytest.raises(InvalidRequest) as caught:
        call(running.url, "predict", texts, client={"texts_per_request": 2}, timeout_s=30)
    (note,) = caught.value.__notes__
    failed = running.seen[3].body["inputs"]
    assert note == f"in the request with texts {failed[0][-1]} to {failed[-1][-1]} of 9"


# -- what is sent -----------------------------------------------------------------------------------------------------------


def test_what_is_left_out_is_left_to_the_service(call: Call, service: Call) -> None:
    running = service()
    call(running.url, "predict", "good")
    assert running.seen[0].body == {"inputs": ["good"], "raw_scores": False}
    assert "authorization" not in running.seen[0].headers


def test_options_and_key_are_sent(call: Call, service: Call) -> None:
    running = service()
    # pragma: allowlist nextline secret
    call(running.url, "predict", ["good"], client={"api_key": "s3cret"}, model="m", top_k=2, overflow="window", raw_scores=True)
    expected = {"inputs": ["good"], "model": "m", "parameters": {"top_k": 2}, "overflow": "window", "raw_scores": True}
    assert running.seen[0].body == expected
    assert running.seen[0].headers["authorization"] == "Bearer s3cret"


def test_a_misspelt_option_is_refused(call: Call, service: Call) -> None:
    with pytest.raises(TypeError):
        call(service().url, "predict", "good", topk=1)


def test_a_tuple_is_a_pair_and_a_list_a_batch(call: Call, service: Call) -> None:
    running = service()
    one = call(running.url, "predict", ("a", "b"))
    several = call(running.url, "predict", [("a", "b"), "c"])
    assert [seen.body["inputs"] for seen in running.seen] == [[["a", "b"]], [["a", "b"], "c"]]
    assert (len(one), len(several)) == (1, 2)
    assert several[0] == one


def test_an_empty_list_asks_nothing(call: Call, service: Call) -> None:
    running = service()
    assert call(running.url, "predict", []) == []
    assert running.seen == []


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (4, [4]), (5, [4, 1]), (11, [4, 4, 3])])
def test_a_long_list_goes_in_several_requests_and_keeps_its_order(
    call: Call, service: Call, count: int, sizes: list[int]
) -> None:
    running = service()
    texts = [f"text {number}" for number in range(count)]
    assert call(running.url, "predict", texts, client={"texts_per_request": 4}) == echoed(texts)
    assert sorted((len(seen.body["inputs"]) for seen in running.seen), reverse=True) == sizes


def test_requests_of_a_list_run_at_once_up_to_the_bound(service: Call) -> None:
    running = service()
    delays = itertools.cycle([0.06, 0.01, 0.03])
    running.delay_s = lambda: next(delays)
    texts = [f"text {number}" for number in range(40)]

    async def predict() -> list[list[LabelScore]]:
        async with AsyncClient(running.url, texts_per_request=2, requests_at_once=3) as client:
            return await client.predict(texts)

    assert asyncio.run(predict()) == echoed(texts)
    assert len(running.seen) == 20
    assert running.most_in_flight == 3


# -- connections ------------------------------------------------------------------------------------------------------------


def test_a_connection_is_used_again(service: Call) -> None:
    running = service()
    with Client(running.url) as client:
        for _ in range(5):
            client.predict("good")
    assert running.connections == 1
    asyncio.run(_five_times(running.url))
    assert running.connections == 2


async def _five_times(url: str) -> None:
    async with AsyncClient(url) as client:
        for _ in range(5):
            await client.predict("good")


def test_threads_share_a_client(service: Call) -> None:
    running = service()
    texts = [f"text {number}" for number in range(50)]
    with Client(running.url) as client, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: client.predict(text)[0].label, texts)) == texts
    assert running.connections <= 8


def test_an_http_client_of_ones_own_stays_open(service: Call) -> None:
    with httpx.Client(headers={"x-mine": "yes"}) as http:
        running = service()
        with Client(running.url + "/", http=http) as client:
            client.predict("good")
        assert not http.is_closed
    assert running.seen[0].headers["x-mine"] == "yes"
    assert running.seen[0].path == "/predict"


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False)])
def test_ready_asks_once(call: Call, service: Call, scripted: Any, status: int, ready: bool) -> None:
    running = service(scripted(status, {"retry-after": "1"}, b"{}"))
    assert call(running.url, "ready") is ready
    assert [seen.path for seen in running.seen] == ["/ready"]


def test_ready_does_not_hide_a_wrong_key(call: Call, service: Call, scripted: Any) -> None:
    with pytest.raises(Unauthorized):
        call(service(scripted(401)).url, "ready")


def test_the_client_imports_nothing_of_the_server() -> None:
    heavy = {"torch", "transformers", "tokenizers", "litserve", "numpy", "pydantic", "uvicorn", "prometheus_client"}
    code = f"import sys, service.client; found = {heavy} & set(sys.modules); assert not found, found"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- connections that end -----------------------------------------------------------------------------------------------------


def test_a_kept_connection_is_used_while_the_service_keeps_it() -> None:
    assert 4 < LIMITS.keepalive_expiry < Settings().keep_alive_s


def test_a_connection_that_the_service_ends_is_not_used_again(service: Call, scripted: Any) -> None:
    running = service(scripted(200, {"connection": "close"}))
    with Client(running.url, retries=Retries(count=0)) as client:
        for _ in range(3):
            client.predict("good")
    assert running.connections == 2


def test_a_kept_connection_that_breaks_before_an_answer_is_made_good(service: Call, scripted: Any) -> None:
    """As of a service that stops: the request went out on a connection that was just closed."""
    running = service(scripted(200), scripted(0))
    with Client(running.url) as client:
        assert client.predict("good")[0].label == "good"
        assert client.predict("better")[0].label == "better"
    assert len(running.seen) == 3
