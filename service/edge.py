"""The HTTP edge: an ASGI middleware, outermost in LitServe's app, that answers every route of the contract itself.

Only the documentation pages go on to the app behind it.
"""

import asyncio
import hmac
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from service import __version__, errors, metrics
from service.catalog import ServedModel
from service.errors import ServiceError
from service.frames import Hello
from service.link import Link, Reply
from service.scores import BY_PROBLEM_TYPE, labelled
from service.settings import Settings
from service.tokenization import TextEncoder, Tokens
from service.wire import PredictRequest, parse_predict

log = logging.getLogger("valence.edge")
Headers = list[tuple[bytes, bytes]]

# Requests older than this are watched for a client that has gone; faster ones pay nothing for it.
WATCH_AFTER_S = 0.1
# More text than this is tokenized in a thread, so that it does not hold up the event loop (2 ms at 0.4 us a character).
INLINE_CHARACTERS = 5_000
JSON = (b"content-type", b"application/json")
DOCUMENTATION = frozenset({"/docs", "/openapi.json", "/redoc", "/docs/oauth2-redirect"})


class ClientGone(Exception):
    """The client closed its connection; nobody reads an answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response."""

    status: int
    body: bytes
    headers: Headers


@dataclass(slots=True)
class Call:
    """One request on its way."""

    scope: Scope
    receive: Receive
    headers: dict[bytes, bytes]
    started_at: float
    model: str = ""


class Edge:
    """Routes, limits and errors of one HTTP process."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        catalog: Sequence[ServedModel],
        encoders: Sequence[TextEncoder],
        sockets: Sequence[Path],
        http_processes: int,
    ) -> None:
        self.app = app
        self.settings = settings
        self.catalog = catalog
        self.encoders = encoders
        self.places = {model.name: place for place, model in enumerate(catalog)}
        self.links = [Link(path, on_found=worker_found, on_lost=worker_lost) for path in sockets]
        self.limit = math.ceil(settings.max_concurrent_requests / http_processes)
        self.in_flight = 0
        self.meters = [metrics.RequestMeter(model.name) for model in catalog]
        self.key = settings.api_key.get_secret_value().encode() if settings.api_key else None
        self._tasks: set[asyncio.Task[None]] = set()
        self.routes: dict[str, tuple[str, Callable[[Call], Awaitable[Answer]]]] = {
            "/predict": ("POST", self.predict),
            "/": ("POST", self.predict),
            "/health": ("GET", self.health),
            "/ready": ("GET", self.ready),
            "/info": ("GET", self.info),
            "/metrics": ("GET", self.metrics),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "lifespan":
            self._connect()
        if scope["type"] != "http" or scope["path"] in DOCUMENTATION:
            await self.app(scope, receive, send)
            return
        call = Call(scope, receive, dict(scope["headers"]), time.perf_counter())
        request_id = call.headers.get(b"x-request-id", b"")[:128] or uuid.uuid4().hex.encode()
        route = self._route_name(scope["path"])
        try:
            answer = await self._dispatch(call, route)
        except ServiceError as error:
            metrics.FAILURES.labels(error.error_type).inc()
            answer = error_answer(error)
        except ClientGone:
            metrics.FAILURES.labels("client_gone").inc()
            return
        except Exception:  # a fault of ours: the client gets a clean answer, the operator the stack
            log.exception("a request to %s failed", route)
            metrics.FAILURES.labels("internal").inc()
            answer = error_answer(ServiceError(500, "internal", "the service failed on this request"))
        metrics.answered(route, call.model, answer.status).inc()
        await send(
            {"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, (b"x-request-id", request_id)]}
        )
        await send({"type": "http.response.body", "body": answer.body})

    async def _dispatch(self, call: Call, route: str) -> Answer:
        path, method = call.scope["path"], call.scope["method"]
        if route == "other":
            raise errors.not_found("no such route; POST /predict scores texts, GET /docs lists the routes")
        allowed, handler = self.routes[route if route in self.routes else "/predict"]
        if method != allowed and not (method == "HEAD" and allowed == "GET"):
            raise ServiceError(405, "method", f"this route takes {allowed}")
        if self.key is not None and path not in ("/health", "/ready", "/metrics"):
            self._authorize(call)
        return await handler(call)

    def _route_name(self, path: str) -> str:
        """The metric's label: a route of ours, never the path itself."""
        if path in self.routes:
            return path
        return "/models/{name}/predict" if path.startswith("/models/") and path.endswith("/predict") else "other"

    def _authorize(self, call: Call) -> None:
        assert self.key is not None
        sent = call.headers.get(b"x-api-key") or call.headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        if not hmac.compare_digest(sent, self.key):
            raise ServiceError(401, "unauthorized", "an API key is needed: send Authorization: Bearer <key>, or X-API-Key")

    # -- /predict -----------------------------------------------------------------------------------------------------------

    async def predict(self, call: Call) -> Answer:
        """Scores the texts of one request."""
        if self.in_flight >= self.limit:
            raise errors.overloaded(self.settings.max_concurrent_requests)
        self.in_flight += 1
        metrics.IN_FLIGHT.inc()
        try:
            return await self._predict(call)
        finally:
            self.in_flight -= 1
            metrics.IN_FLIGHT.dec()

    async def _predict(self, call: Call) -> Answer:
        timeout_s = self._timeout(call)
        deadline = time.monotonic() + timeout_s
        request = parse_predict(await read_body(call, self.settings.payload_limit, timeout_s))
        if len(request.texts) > self.settings.max_client_batch_size:
            raise errors.validation(
                f"inputs: {len(request.texts)} texts exceed the limit of {self.settings.max_client_batch_size}; send fewer"
            )
        place = self._place(call, request)
        call.model = self.catalog[place].name
        tokens = await self._tokenize(place, request)
        reply = await self._compute(call, tokens, place=place, deadline=deadline, timeout_s=timeout_s)
        return self._scored(call, request, reply, tokens, place)

    def _timeout(self, call: Call) -> float:
        """The deadline that the client asks for, if it is shorter than the service's."""
        asked = call.headers.get(b"x-request-timeout-s")
        if asked is None:
            return self.settings.request_timeout_s
        try:
            seconds = float(asked)
        except ValueError:
            seconds = math.nan
        if not seconds > 0:
            raise errors.validation("x-request-timeout-s: must be a number of seconds above 0")
        return min(seconds, self.settings.request_timeout_s)

    def _place(self, call: Call, request: PredictRequest) -> int:
        """Which model: the path's name, else the body's, else the first served."""
        path = call.scope["path"]
        name = path.removeprefix("/models/").removesuffix("/predict") if path.startswith("/models/") else request.model
        if name is None:
            return 0
        if name not in self.places:
            raise errors.not_found("no such model; GET /info lists the served models")
        return self.places[name]

    async def _tokenize(self, place: int, request: PredictRequest) -> Tokens:
        started_at = time.perf_counter()
        truncate = self.settings.auto_truncate if request.truncate is None else request.truncate
        encoder = self.encoders[place]
        if sum(len(text) + len(partner or "") for text, partner in request.texts) <= INLINE_CHARACTERS:
            tokens = encoder.encode(request.texts, truncate=truncate, from_left=request.truncate_left)
        else:
            tokens = await asyncio.to_thread(encoder.encode, request.texts, truncate=truncate, from_left=request.truncate_left)
        self.meters[place].tokenization.observe(time.perf_counter() - started_at)
        return tokens

    async def _compute(self, call: Call, tokens: Tokens, *, place: int, deadline: float, timeout_s: float) -> Reply:
        """Hands the texts to the worker with the least to do and waits; 503, 504 or ClientGone if no answer comes."""
        ready = [link for link in self.links if link.ready]
        if not ready:
            raise errors.unhealthy("no worker is ready yet; retry")
        link = min(ready, key=lambda link: len(link.pending))
        job_id, future = link.submit(tokens, model=place, deadline=deadline)
        watch = asyncio.get_running_loop().call_later(
            min(WATCH_AFTER_S, timeout_s), self._watch, call.receive, future, deadline, timeout_s
        )
        try:
            reply = await future
        except (ServiceError, ClientGone, asyncio.CancelledError):
            link.forget(job_id)
            raise
        finally:
            watch.cancel()
        link.settle(job_id)
        if reply.failed:
            raise errors.backend(min(reply.failed))
        return reply

    def _watch(self, receive: Receive, future: asyncio.Future[Reply], deadline: float, timeout_s: float) -> None:
        task = asyncio.get_running_loop().create_task(watch_slow_request(receive, future, deadline, timeout_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        future.add_done_callback(lambda _: task.cancel())

    def _scored(self, call: Call, request: PredictRequest, reply: Reply, tokens: Tokens, place: int) -> Answer:
        model = self.catalog[place]
        function = request.function or BY_PROBLEM_TYPE[model.problem_type]
        answers = [labelled(row, labels=model.labels, function=function, top_k=request.top_k) for row in reply.rows]
        total_s = time.perf_counter() - call.started_at
        self.meters[place].duration.observe(total_s)
        headers = [
            JSON,
            (b"x-model", model.name.encode()),
            (b"x-tokens", b"%d" % sum(tokens.lengths)),
            (b"x-queue-time-ms", b"%.3f" % (1000 * reply.queue_s)),
            (b"x-inference-time-ms", b"%.3f" % (1000 * reply.inference_s)),
            (b"x-total-time-ms", b"%.3f" % (1000 * total_s)),
        ]
        return json_answer(200, answers if request.nested else answers[0], headers)

    # -- the other routes ---------------------------------------------------------------------------------------------------

    async def health(self, call: Call) -> Answer:
        """Liveness: this process answers."""
        return json_answer(200, {"status": "alive"})

    async def ready(self, call: Call) -> Answer:
        """Readiness: every worker has let every model answer a real forward."""
        missing = sum(not link.ready for link in self.links)
        if missing:
            raise errors.unhealthy(f"{missing} of {len(self.links)} workers are not ready")
        return json_answer(200, {"status": "ready"})

    async def info(self, call: Call) -> Answer:
        """What is served, on what, with which limits."""
        hellos = [link.hello for link in self.links if link.hello is not None]
        models = [
            {
                "name": model.name,
                "architecture": model.architecture,
                "id2label": dict(enumerate(model.labels)),
                "problem_type": model.problem_type,
                "max_length": model.max_length,
                "tokenizer": model.tokenizer_path.name,
                "workers": [hello.details[model.name] for hello in hellos],
            }
            for model in self.catalog
        ]
        limits = ("max_concurrent_requests", "max_client_batch_size", "payload_limit", "request_timeout_s")
        described: dict[str, Any] = {name: getattr(self.settings, name) for name in limits}
        if hellos:
            described["max_batch_tokens"] = self.settings.batch_tokens(hellos[0].device)
        return json_answer(200, {"version": __version__, "models": models, "limits": described})

    async def metrics(self, call: Call) -> Answer:
        """Prometheus text format, over all processes."""
        body = await asyncio.to_thread(metrics.exposition)
        return Answer(200, body, [(b"content-type", b"text/plain; version=1.0.0; charset=utf-8")])

    def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        for link in self.links:
            self._tasks.add(loop.create_task(link.keep_connected()))


def worker_found(hello: Hello) -> None:
    """A worker is ready."""
    log.info("worker %s is ready", hello.device)
    metrics.WORKER_UP.labels(hello.device).set(1)


def worker_lost(hello: Hello) -> None:
    """A worker died; its supervisor replaces it."""
    log.warning("worker %s was lost", hello.device)
    metrics.WORKER_UP.labels(hello.device).set(0)
    metrics.process_died(hello.pid)


async def read_body(call: Call, limit: int, timeout_s: float) -> bytes:
    """The whole body. ServiceError 413 as soon as it is known to be over `limit` bytes, 504 if it does not come in time."""
    declared = call.headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit:
        raise errors.payload_too_large(limit)
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


async def watch_slow_request(receive: Receive, future: asyncio.Future[Reply], deadline: float, timeout_s: float) -> None:
    """Settles the future of a request whose client goes away or whose deadline passes."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            while (await receive())["type"] != "http.disconnect":
                pass
        failure: Exception = ClientGone()
    except TimeoutError:
        failure = errors.timed_out(timeout_s)
    if not future.done():
        future.set_exception(failure)


def json_answer(status: int, content: Any, headers: Headers | None = None) -> Answer:
    """A JSON response."""
    body = orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)
    return Answer(status, body, [*(headers or [JSON]), (b"content-length", b"%d" % len(body))])


def error_answer(error: ServiceError) -> Answer:
    """{"error", "error_type"}, with Retry-After where a retry can help."""
    headers = [JSON]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    return json_answer(error.status, {"error": error.message, "error_type": error.error_type}, headers)
