"""The exceptions of requests that fail."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx


@dataclass(eq=False)  # not frozen: Python sets an exception's traceback
class ValenceError(Exception):
    """A request that failed. `status` and `request_id` are None if nothing came back at all."""

    message: str
    error_type: str = "client"
    status: int | None = None
    request_id: str | None = None
    retry_after_s: float | None = None

    def __str__(self) -> str:
        said = f"{self.error_type}: {self.message}" if self.status is None else f"{self.status} {self.error_type}: {self.message}"
        return said if self.request_id is None else f"{said} (request {self.request_id})"


class InvalidRequest(ValenceError):
    """400, 413 or 422: what was sent can't be served. The message names the limit and the value."""


class Unauthorized(ValenceError):
    """401: an API key is needed, and none or a wrong one was sent."""


class UnsupportedEncoding(InvalidRequest):
    """415: the body came in an encoding that the service does not know."""


class HeadTooLarge(InvalidRequest):
    """431: the request's headers are too large."""


class Forbidden(ValenceError):
    """403: the key may not do this, or the route is closed."""


class Conflict(ValenceError):
    """409: the state of the service forbids it now."""


class NotFound(ValenceError):
    """404 or 405: no such model or route."""


class ModelFailed(ValenceError):
    """424: the model failed on a text of this request."""


class Overloaded(ValenceError):
    """429 at every attempt: too many requests."""


class Unavailable(ValenceError):
    """503 at every attempt: no worker was ready, or the one with the request died."""


class TimedOut(ValenceError):
    """The deadline passed. `status` is 504, or None if no answer was waited for any more."""


class TooSlow(TimedOut):
    """408: the request came too slowly."""


class Unreachable(ValenceError):
    """No connection, or one that broke, at every attempt."""


BY_STATUS: dict[int, type[ValenceError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: NotFound,
    408: TooSlow,
    409: Conflict,
    413: InvalidRequest,
    415: UnsupportedEncoding,
    422: InvalidRequest,
    424: ModelFailed,
    429: Overloaded,
    431: HeadTooLarge,
    503: Unavailable,
    504: TimedOut,
}


def failure_of(response: httpx.Response) -> ValenceError:
    """The error that a response tells of. If it is a proxy's and not the service's, the message is the phrase of its status."""
    try:
        said = response.json()
    except ValueError:
        said = None
    said = said if isinstance(said, dict) else {}
    return BY_STATUS.get(response.status_code, ValenceError)(
        str(said.get("error", response.reason_phrase)),
        str(said.get("error_type", "http")),
        response.status_code,
        response.headers.get("x-request-id"),
        seconds_of(response.headers.get("retry-after", "")),
    )


def seconds_of(retry_after: str) -> float | None:
    """The wait that `Retry-After` asks for, as a number or as a date (RFC 9110, 10.2.3); None where it says neither.

    >>> seconds_of("2"), seconds_of("Wed, 21 Oct 2015 07:28:00 GMT"), seconds_of("soon")
    (2.0, 0.0, None)
    """
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


@contextmanager
def transport_failures() -> Iterator[None]:
    """Raises TimedOut or Unreachable for what httpx raises. httpx's timeouts are what is left of the deadline."""
    try:
        yield
    except (httpx.TimeoutException, TimeoutError) as error:
        raise TimedOut("no answer before the deadline", "timeout") from error
    except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError) as error:
        raise Unreachable(f"{type(error).__name__}: {error}", "connection") from error
