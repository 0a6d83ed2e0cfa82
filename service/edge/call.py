"""One HTTP request and its answer, as ASGI gives and takes them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Receive, Scope

from service.edge import compression, errors
from service.edge.connection import whole_body
from service.edge.errors import ServiceError

Headers = list[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")
# No proxy or browser keeps an answer.
NO_STORE = (b"cache-control", b"no-store")
# Asked every few seconds by whoever watches the service: of no interest to those who watch requests.
MONITOR_ROUTES = frozenset({"/health", "/ready", "/metrics"})


class ClientGone(Exception):
    """The client closed its connection; nobody reads an answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response; its length is counted when it is sent."""

    status: int
    body: bytes
    headers: Headers


@dataclass(slots=True)
class Call:
    """One request on its way, and what is noted of it for those who watch: moments of `time.perf_counter`, 0 where it did not
    come so far."""

    scope: Scope
    receive: Receive
    headers: dict[bytes, bytes]
    model: str = ""
    started_at: float = field(default_factory=time.perf_counter)
    arrived_at: float = field(default_factory=time.monotonic)
    error_type: str = ""
    texts: int = 0
    tokens: int = 0
    tokenization_started_at: float = 0.0
    tokenized_at: float = 0.0
    submitted_at: float = 0.0
    scored_at: float = 0.0
    queue_s: float = 0.0
    inference_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended. `route` is one of ours, never the path; `status` None: the client had gone."""

    route: str
    request_id: str
    status: int | None


Handler = Callable[[Call], Awaitable[Answer]]


async def read_body(call: Call, limit: int, timeout_s: float) -> bytes:
    """The whole body, decompressed. ServiceError 413 as soon as it is known to be over `limit` bytes, 415 for an encoding that is
    not known, 504 if it does not come in time."""
    encoding = call.headers.get(b"content-encoding")
    if encoding is not None:
        compression.check_encoding(encoding)
    declared = call.headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit:
        raise errors.payload_too_large(limit)
    body = whole_body(call.scope)
    if body is None:
        body = await _received(call, limit, timeout_s)
    elif len(body) > limit:
        raise errors.payload_too_large(limit)
    return body if encoding is None else await compression.decompressed(body, encoding, limit=limit)


async def _received(call: Call, limit: int, timeout_s: float) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await call.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                if len(body) > limit:
                    raise errors.payload_too_large(limit)
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise errors.timed_out(timeout_s) from None


def json_answer(status: int, content: Any, headers: Headers | None = None) -> Answer:
    """A JSON response."""
    return Answer(status, orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS), [*(headers or [JSON]), NO_STORE])


def error_answer(error: ServiceError) -> Answer:
    """{"error", "error_type"}, with Retry-After where a retry can help, Allow where the verb is wrong, WWW-Authenticate without a
    key."""
    headers = [JSON]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.allow is not None:
        headers.append((b"allow", error.allow.encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return json_answer(error.status, {"error": error.message, "error_type": error.error_type}, headers)
