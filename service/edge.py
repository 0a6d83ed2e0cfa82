"""The HTTP edge: an ASGI middleware, outermost in LitServe's app, that answers every route of the contract itself.

Only the documentation pages go on to the app behind it.
"""

import asyncio
import hmac
import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from service import __version__, errors, metrics
from service.catalog import ServedModel
from service.errors import ServiceError
from service.exchange import JSON, Answer, Call, ClientGone, error_answer, json_answer, read_body
from service.frames import Hello
from service.link import Link
from service.scores import BY_PROBLEM_TYPE, labelled
from service.scoring import Job, Scorer
from service.settings import Settings
from service.tokenization import TextEncoder
from service.wire import parse_predict

log = logging.getLogger("valence.edge")
DOCUMENTATION = frozenset({"/docs", "/openapi.json", "/redoc", "/docs/oauth2-redirect"})


class Edge:
    """Routes, limits and errors of one HTTP process."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        catalog: Sequence[ServedModel],
        encoders: Sequence[TextEncoder],
        draining: Path,
        sockets: Sequence[Path],
        http_processes: int,
    ) -> None:
        self.app = app
        self.settings = settings
        self.catalog = catalog
        self.draining = draining
        self.links = [Link(path, on_found=worker_found, on_lost=worker_lost) for path in sockets]
        limit = math.ceil(settings.max_concurrent_requests / http_processes)
        self.scorer = Scorer(settings, catalog, encoders, self.links, limit=limit)
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
        call = Call(scope, receive, dict(scope["headers"]))
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
        with self.scorer.admitted():
            timeout_s = self.scorer.timeout_s(call)
            request = parse_predict(await read_body(call, self.settings.payload_limit, timeout_s))
            path = call.scope["path"]
            name = path.removeprefix("/models/").removesuffix("/predict") if path.startswith("/models/") else request.model
            job = Job(
                place=self.scorer.place(name),
                texts=request.texts,
                timeout_s=timeout_s,
                truncate=request.truncate,
                truncate_left=request.truncate_left,
            )
            scored = await self.scorer.score(call, job)
            function = request.function or BY_PROBLEM_TYPE[scored.model.problem_type]
            answers = [
                labelled(row, labels=scored.model.labels, function=function, top_k=request.top_k) for row in scored.reply.rows
            ]
            headers = [JSON, *self.scorer.finished(call, scored)]
            return json_answer(200, answers if request.nested else answers[0], headers)

    # -- the other routes ---------------------------------------------------------------------------------------------------

    async def health(self, call: Call) -> Answer:
        """Liveness: this process answers."""
        return json_answer(200, {"status": "alive"})

    async def ready(self, call: Call) -> Answer:
        """Readiness: every worker has let every model answer a real forward, and the service is not about to stop."""
        if self.draining.exists():
            raise errors.unhealthy("the service is about to stop")
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
                "source": model.source,
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
