"""One HTTP request and its answer, as ASGI gives and takes them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Receive, Scope

from service.edge.http.errors import ServiceError

Headers = list[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")
# No proxy or browser keeps an answer.
NO_STORE = (b"cache-control", b"no-store")
# Monitors ask for these every few seconds, so the log of requests and the traces leave them out.
MONITOR_ROUTES = frozenset({"/health", "/ready", "/metrics"})


class ClientGone(Exception):
    """The client closed its connection; nobody reads an answer."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. The header with its length is added when it is sent."""

    status: int
    body: bytes
    headers: Headers


@dataclass(slots=True)
class Call:
    """One request on its way, and what metrics, log and traces need to know of it.

    `parameters`: what stands in the path for each `{name}` of its route. `body` and `timeout_s` are set before a route that takes
    texts is called. `is_scored`: every text got its scores. `arrived_at` is a moment of `time.monotonic`, all others are of
    `time.perf_counter`; a moment is 0 if the request did not come so far."""

    scope: Scope
    receive: Receive
    headers: dict[bytes, bytes]
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    timeout_s: float = 0.0
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
    is_scored: bool = False
    queue_s: float = 0.0
    inference_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended. `route`: a route of ours, never the client's path. `status` None: the client had gone."""

    route: str
    request_id: str
    status: int | None


def json_response(status: int, content: Any, headers: Headers | None = None) -> Response:
    """A JSON answer."""
    return Response(status, orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS), [*(headers or [JSON]), NO_STORE])


def error_response(error: ServiceError) -> Response:
    """The JSON {"error", "error_type"}.

    It comes with Retry-After if a retry can help, with Allow if the verb is wrong, with WWW-Authenticate if a key is needed."""
    headers = [JSON]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.allow is not None:
        headers.append((b"allow", error.allow.encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return json_response(error.status, {"error": error.message, "error_type": error.error_type}, headers)
