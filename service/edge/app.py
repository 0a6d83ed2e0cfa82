"""The HTTP edge: an ASGI middleware, outermost in LitServe's app, that answers every request itself."""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from service import metrics
from service.edge import compression, errors
from service.edge.access import Access
from service.edge.admission import InFlight
from service.edge.call import JSON, Answer, Call, ClientGone, Handler, Outcome, error_answer, json_answer, read_body
from service.edge.changes import Changes
from service.edge.connection import respond
from service.edge.errors import ServiceError
from service.edge.labelling import BY_PROBLEM_TYPE, labelled
from service.edge.link import Link
from service.edge.routes import infer as inference_protocol
from service.edge.routes.docs import Documentation
from service.edge.routes.explain import Explanations
from service.edge.routes.infer import InferenceProtocol
from service.edge.routes.models import Admin
from service.edge.routes.monitor import information
from service.edge.routes.predict import parse_predict
from service.edge.routes.tokenize import TokenLists
from service.edge.scoring import Job, Scorer
from service.edge.telemetry.announcement import log_ready
from service.edge.telemetry.request_log import log_request
from service.frames import Hello
from service.prctl import name_process
from service.settings import Settings

if TYPE_CHECKING:
    from service.edge.telemetry.tracing import Tracer

log = logging.getLogger("valence.edge")
# What every HTTP process sees alike; one of them says it.
worker_log = logging.getLogger("valence.workers")
# (method, route name) of what changes the service: it takes an admin key.
ADMIN_ROUTES = frozenset({("POST", "/models"), ("DELETE", "/models/{name}")})


class Edge:
    """Routes, limits and errors of one HTTP process."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        access: Access,
        runtime_dir: Path,
        draining: Path,
        sockets: Sequence[Path],
        in_flight: InFlight,
        http_processes: int,
    ) -> None:
        self.app = app
        self.settings = settings
        self.access = access
        self.draining = draining
        self.http_processes = http_processes
        self.links = [Link(path, on_found=self._worker_found, on_lost=worker_lost) for path in sockets]
        self.scorer = Scorer(settings, self.links, in_flight=in_flight)
        self.changes = Changes(settings, self.scorer, self.links, runtime_dir=runtime_dir)
        self.admin = Admin(settings, self.changes)
        self.observers: list[Callable[[Call, Outcome], None]] = [log_request] if settings.log_requests else []
        self._announced = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.routes: dict[str, tuple[str, Handler]] = {
            "/predict": ("POST", self.predict),
            "/": ("POST", self.predict),
            "/models/{name}/predict": ("POST", self.predict),
            "/tokenize": ("POST", TokenLists(self.scorer).tokenize),
            "/explain": ("POST", Explanations(self.scorer, http_processes=http_processes).explain),
            "/health": ("GET", self.health),
            "/ready": ("GET", self.ready),
            "/info": ("GET", self.info),
            "/models": ("GET", self.admin.models),
            "/models/{name}": ("DELETE", self.admin.remove),
            "/metrics": ("GET", self.metrics),
            **InferenceProtocol(self.scorer, ready=self.ready).routes,
            **Documentation().routes,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call = Call(scope, receive, dict(scope["headers"]))
        request_id = call.headers.get(b"x-request-id", b"")[:128] or os.urandom(16).hex().encode()
        route = self._route_name(scope["path"])
        try:
            answer = await self._dispatch(call, route)
        except ServiceError as error:
            call.error_type = error.error_type
            answer = error_answer(error)
        except ClientGone:
            call.error_type, answer = "client_gone", None
        except Exception:  # a fault of ours: the client gets a clean answer, the operator the stack
            log.exception("a request to %s failed", route)
            call.error_type = "internal"
            answer = error_answer(ServiceError(500, "internal", "the service failed on this request"))
        if call.error_type:
            metrics.FAILURES.labels(call.error_type).inc()
        if answer is not None:
            metrics.TALLY.answered(route, call.model, answer.status)
            await self._send(call, answer, request_id, send)
        for observe in self.observers:
            observe(call, Outcome(route, request_id.decode("latin-1"), answer.status if answer else None))

    async def _send(self, call: Call, answer: Answer, request_id: bytes, send: Send) -> None:
        body, headers = answer.body, [*answer.headers, (b"x-request-id", request_id)]
        if len(body) >= compression.LEAST_BYTES and b"accept-encoding" in call.headers:
            body, added = await compression.compressed(body, call.headers[b"accept-encoding"])
            headers += added
        headers.append((b"content-length", b"%d" % len(body)))
        await respond(call.scope, send, status=answer.status, headers=headers, body=body)

    async def _dispatch(self, call: Call, route: str) -> Answer:
        path, method = call.scope["path"], call.scope["method"]
        if route == "other":
            raise errors.not_found("no such route; POST /predict scores texts, GET /docs lists the routes")
        admin = (method, route) in ADMIN_ROUTES
        allowed, handler = ("POST", self.admin.put) if admin and method == "POST" else self.routes[route]
        if method != allowed and not (method == "HEAD" and allowed == "GET"):
            raise errors.wrong_method(allowed, *(other for other, path in ADMIN_ROUTES if path == route))
        if admin or not self.access.opens(path):
            with self.access.granted(call.headers, admin=admin):
                return await handler(call)
        return await handler(call)

    def _route_name(self, path: str) -> str:
        """The metric's label: a route of ours, never the path itself."""
        if path in self.routes:
            return path
        if path.startswith("/v2/"):
            return inference_protocol.route_name(path) or "other"
        if not path.startswith("/models/"):
            return "other"
        return "/models/{name}/predict" if path.endswith("/predict") else "/models/{name}"

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
                window=request.window,
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
        return json_answer(200, information(self.settings, self.scorer.catalog, hellos, http_processes=self.http_processes))

    async def metrics(self, call: Call) -> Answer:
        """Prometheus text format, over all processes."""
        metrics.IN_FLIGHT.set(self.scorer.in_flight.total)
        metrics.TALLY.write()
        body = await asyncio.to_thread(metrics.exposition)
        return Answer(200, body, [(b"content-type", b"text/plain; version=1.0.0; charset=utf-8")])

    # -- the process --------------------------------------------------------------------------------------------------------

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """From the start of this HTTP process, after it was forked, until it has answered its last request."""
        name_process("valence-http")
        loop = asyncio.get_running_loop()
        self._tasks.add(loop.create_task(self.access.keep_fresh()))
        for link in self.links:
            self._tasks.add(loop.create_task(link.keep_connected()))
        self._tasks.add(loop.create_task(self.changes.follow()))
        tracer = self._tracer()
        if tracer is not None:
            self.observers.append(tracer.record)
        await self.app(scope, receive, send)
        metrics.TALLY.write()
        if tracer is not None:
            tracer.close()  # nobody waits for this process any more but its supervisor

    def _tracer(self) -> "Tracer | None":
        if self.settings.otlp_endpoint is None:
            return None
        from service.edge.telemetry.tracing import Tracer  # of an extra, which need not be installed

        return Tracer(self.settings.otlp_endpoint)

    def _worker_found(self, hello: Hello) -> None:
        worker_found(hello)
        hellos = [link.hello for link in self.links if link.hello is not None]
        if len(hellos) == len(self.links) and not self._announced:
            self._announced = True
            log_ready(self.settings, self.scorer.catalog, hellos, http_processes=self.http_processes)


def worker_found(hello: Hello) -> None:
    """A worker is ready."""
    worker_log.info("worker %s is ready", hello.device)
    metrics.WORKER_UP.labels(hello.device).set(1)


def worker_lost(hello: Hello) -> None:
    """A worker died; its supervisor replaces it."""
    worker_log.warning("worker %s was lost", hello.device)
    metrics.WORKER_UP.labels(hello.device).set(0)
    metrics.process_died(hello.pid)
