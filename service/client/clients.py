"""`Client` and `AsyncClient`: the same methods, to call and to await."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, Unpack, overload

import httpx

from service.client.failures import TimedOut, Unavailable, Unreachable, ValenceError, failure_of, transport_failures
from service.client.messages import Info, Options, Scores, Text, Texts, info_of, predict_body, scores_of
from service.client.retries import Attempts, Retries

# A connection that was idle for so long is not used again: the other side may be about to close it. The service does so after its
# `--keep-alive-s`, which is 75 s; load balancers after 60 s or more, unless they are told otherwise.
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=50.0)
RETRIES = Retries()


@dataclass(frozen=True, slots=True)
class Part:
    """The texts of one request: a part of the caller's list, from index `start` on. `total`: how many texts the list has."""

    start: int
    texts: Sequence[Text]
    total: int

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Notes on an error which texts of a longer list it is about."""
        try:
            yield
        except ValenceError as error:
            if self.total > len(self.texts):
                error.add_note(f"in the request with texts {self.start} to {self.start + len(self.texts) - 1} of {self.total}")
            raise


class BaseClient:
    """What both clients know: where the service is, and how a call becomes requests."""

    def __init__(self, url: str, *, api_key: str | None, timeout_s: float, retries: Retries, texts_per_request: int) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self.retries = retries
        self.texts_per_request = texts_per_request
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}

    def _deadline(self, timeout_s: float | None) -> float:
        return time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)

    def _parts(self, inputs: Text | Texts) -> list[Part]:
        texts: Sequence[Text] = inputs if isinstance(inputs, list) else [inputs]
        size = self.texts_per_request
        return [Part(start, texts[start : start + size], len(texts)) for start in range(0, len(texts), size)]

    def _request(self, method: str, path: str, *, left_s: float, body: Any) -> dict[str, Any]:
        """httpx's arguments for an attempt. A header tells the service how long the client waits."""
        headers = self._headers | {"x-request-timeout-s": str(left_s)}
        return {"method": method, "url": self.url + path, "headers": headers, "json": body, "timeout": left_s}


class Client(BaseClient):
    """The service, for any number of threads. Connections are kept and shared; `close` or `with` ends them."""

    def __init__(
        self,
        url: str = "http://localhost:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: Retries = RETRIES,
        texts_per_request: int = 64,
        http: httpx.Client | None = None,
    ) -> None:
        """`timeout_s`: how long a whole call may take, retries included. Each step of an attempt gets what is left of it.

        `http`: one of your own, for proxies or certificates, which you close.
        """
        super().__init__(url, api_key=api_key, timeout_s=timeout_s, retries=retries, texts_per_request=texts_per_request)
        self._owns_http = http is None
        self._http = httpx.Client(limits=LIMITS) if http is None else http

    @overload
    def predict(self, inputs: Text, *, timeout_s: float | None = None, **options: Unpack[Options]) -> Scores: ...
    @overload
    def predict(self, inputs: Texts, *, timeout_s: float | None = None, **options: Unpack[Options]) -> list[Scores]: ...
    def predict(
        self, inputs: Text | Texts, *, timeout_s: float | None = None, **options: Unpack[Options]
    ) -> Scores | list[Scores]:
        """Scores, best first: of a text or a pair (a tuple), or of each item of a list.

        A long list goes in several requests. If a request fails, ValenceError or the subclass for that failure, as
        InvalidRequest.
        """
        deadline = self._deadline(timeout_s)
        answers: list[Scores] = []
        for part in self._parts(inputs):
            with part.noted():
                body = predict_body(part.texts, **options)
                answers += scores_of(self._send("POST", "/predict", deadline=deadline, body=body).json())
        return answers if isinstance(inputs, list) else answers[0]

    def ready(self) -> bool:
        """Whether every model has answered on every worker. Makes one attempt; False also if nothing answers."""
        try:
            self._attempt("GET", "/ready", left_s=self.timeout_s)
        except (Unavailable, Unreachable, TimedOut):
            return False
        return True

    def info(self, *, timeout_s: float | None = None) -> Info:
        """What is served, with which limits."""
        return info_of(self._send("GET", "/info", deadline=self._deadline(timeout_s)).json())

    def close(self) -> None:
        """Ends the connections."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _send(self, method: str, path: str, *, deadline: float, body: Any = None) -> httpx.Response:
        attempts = Attempts(self.retries, deadline=deadline)
        while True:
            try:
                return self._attempt(method, path, left_s=attempts.left_s(), body=body)
            except ValenceError as failure:
                pause_s = attempts.pause_s(failure)
            time.sleep(pause_s)

    def _attempt(self, method: str, path: str, *, left_s: float, body: Any = None) -> httpx.Response:
        with transport_failures():
            response = self._http.request(**self._request(method, path, left_s=left_s, body=body))
        if response.is_success:
            return response
        raise failure_of(response)


class AsyncClient(BaseClient):
    """The service, for one event loop. Connections are kept and shared; `aclose` or `async with` ends them."""

    def __init__(
        self,
        url: str = "http://localhost:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: Retries = RETRIES,
        texts_per_request: int = 64,
        requests_at_once: int = 8,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """As `Client`. Of a long list at most `requests_at_once` requests are in flight."""
        super().__init__(url, api_key=api_key, timeout_s=timeout_s, retries=retries, texts_per_request=texts_per_request)
        self.requests_at_once = requests_at_once
        self._owns_http = http is None
        self._http = httpx.AsyncClient(limits=LIMITS) if http is None else http

    @overload
    async def predict(self, inputs: Text, *, timeout_s: float | None = None, **options: Unpack[Options]) -> Scores: ...
    @overload
    async def predict(self, inputs: Texts, *, timeout_s: float | None = None, **options: Unpack[Options]) -> list[Scores]: ...
    async def predict(
        self, inputs: Text | Texts, *, timeout_s: float | None = None, **options: Unpack[Options]
    ) -> Scores | list[Scores]:
        """As `Client.predict`. The first request that fails ends the others."""
        deadline = self._deadline(timeout_s)
        free = asyncio.Semaphore(self.requests_at_once)

        async def scores(part: Part) -> list[Scores]:
            async with free:
                with part.noted():
                    body = predict_body(part.texts, **options)
                    return scores_of((await self._send("POST", "/predict", deadline=deadline, body=body)).json())

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(scores(part)) for part in self._parts(inputs)]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        answers = [row for task in tasks for row in task.result()]
        return answers if isinstance(inputs, list) else answers[0]

    async def ready(self) -> bool:
        """As `Client.ready`."""
        try:
            await self._attempt("GET", "/ready", left_s=self.timeout_s)
        except (Unavailable, Unreachable, TimedOut):
            return False
        return True

    async def info(self, *, timeout_s: float | None = None) -> Info:
        """As `Client.info`."""
        return info_of((await self._send("GET", "/info", deadline=self._deadline(timeout_s))).json())

    async def aclose(self) -> None:
        """Ends the connections."""
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def _send(self, method: str, path: str, *, deadline: float, body: Any = None) -> httpx.Response:
        attempts = Attempts(self.retries, deadline=deadline)
        while True:
            try:
                return await self._attempt(method, path, left_s=attempts.left_s(), body=body)
            except ValenceError as failure:
                pause_s = attempts.pause_s(failure)
            await asyncio.sleep(pause_s)

    async def _attempt(self, method: str, path: str, *, left_s: float, body: Any = None) -> httpx.Response:
        with transport_failures():
            async with asyncio.timeout(left_s):
                response = await self._http.request(**self._request(method, path, left_s=left_s, body=body))
        if response.is_success:
            return response
        raise failure_of(response)
