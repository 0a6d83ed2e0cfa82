"""The HTTP edge: an ASGI middleware, outermost in LitServe's app, that answers every request itself."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from service import metrics
from service.edge.access import Access
from service.edge.http import compression, errors
from service.edge.http.call import Call, ClientGone, Headers, Outcome, Response, error_response
from service.edge.http.connection import respond
from service.edge.http.cors import Cors
from service.edge.http.errors import ServiceError
from service.edge.routes.docs import read_assets
from service.edge.routes.route import Route, Services
from service.edge.routes.table import ByMethod, Table, document
from service.edge.scoring.admission import Admission, Explanations, InFlight
from service.edge.scoring.changes import Changes
from service.edge.scoring.dispatch import Dispatcher
from service.edge.scoring.link import Link
from service.edge.scoring.models import EdgeModels
from service.edge.scoring.scoring import Scorer
from service.edge.scoring.under_way import TokensUnderWay
from service.edge.telemetry.meter import Tally
from service.edge.telemetry.request_log import log_request
from service.edge.telemetry.workers_log import WorkersLog
from service.prctl import name_process
from service.runtime_dir import RuntimeDir
from service.settings import Settings
from service.shared import Flag

if TYPE_CHECKING:
    from service.edge.telemetry.tracing import Tracer

log = logging.getLogger("valence.edge")
NO_ROUTES: ByMethod = {}


class Edge:
    """Routes, limits and errors of one HTTP process."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        access: Access,
        runtime_dir: RuntimeDir,
        draining: Flag,
        sockets: Sequence[Path],
        in_flight: InFlight,
        under_way: TokensUnderWay,
        explanations: InFlight,
        http_processes: int,
    ) -> None:
        self.app = app
        self.access = access
        self.tally = Tally()
        self.observers: list[Callable[[Call, Outcome], None]] = [log_request] if settings.log_requests else []
        self.models = EdgeModels()
        workers_log = WorkersLog(settings, self.models, http_processes=http_processes)
        self.links = [
            Link(path, on_found=workers_log.found, on_lost=workers_log.lost, learn=self.models.learn) for path in sockets
        ]
        workers_log.links = self.links
        self.services = Services(
            settings=settings,
            models=self.models,
            scorer=Scorer(settings, Dispatcher(self.links, under_way)),
            changes=Changes(settings, self.models, self.links, runtime_dir=runtime_dir),
            links=self.links,
            admission=Admission(settings, in_flight),
            explanations=Explanations(explanations),
            tally=self.tally,
            draining=draining,
            http_processes=http_processes,
            document=orjson.dumps(document()),
            assets=read_assets(),
        )
        self.table = Table(prefix=settings.root_path)
        self.cors = Cors(settings.cors_origins) if settings.cors_origins else None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry: answers a request, counts how it ended, then logs and traces it."""
        if scope["type"] != "http":
            await (self._live if scope["type"] == "lifespan" else self.app)(scope, receive, send)
            return
        call = Call(scope, receive, dict(scope["headers"]))
        request_id = call.headers.get(b"x-request-id", b"")[:128] or os.urandom(16).hex().encode()
        routes = self.table.fixed.get(scope["path"], NO_ROUTES)
        if not routes:
            routes, call.parameters = self.table.find(scope["path"])
        label = label_of(routes)
        try:
            response = await self._answer(call, routes)
        except ServiceError as error:
            call.error_type = error.error_type
            response = error_response(error)
        except ClientGone:
            call.error_type, response = "client_gone", None
        except Exception:  # a fault of ours: the client gets a clean answer, the operator the stack
            log.exception("a request to %s failed", label)
            call.error_type = "internal"
            response = error_response(ServiceError(500, "internal", "the service failed on this request"))
        if call.error_type:
            metrics.FAILURES.labels(call.error_type).inc()
        self.tally.ended(label, call, None if response is None else response.status)
        if response is not None:
            await self._send(call, response, request_id, send)
        for observe in self.observers:
            observe(call, Outcome(label, request_id.decode("latin-1"), response.status if response else None))

    async def _answer(self, call: Call, routes: ByMethod) -> Response:
        path, method = call.scope["path"], call.scope["method"]
        if not routes:
            raise errors.not_found("no such route; POST /predict scores texts, GET /docs lists the routes")
        route = routes.get("GET" if method == "HEAD" else method)
        if route is None:
            preflight = self.cors.preflight(call.headers, list(routes)) if self.cors and method == "OPTIONS" else None
            if preflight is None:
                raise errors.wrong_method(*routes)
            return preflight
        if not route.admin and (not self.access.asks_for_key or self.access.opens(self.table.bare(path))):
            return await self._handle(call, route)
        with self.access.granted(call.headers, admin=route.admin):
            return await self._handle(call, route)

    async def _handle(self, call: Call, route: Route) -> Response:
        if route.takes_texts:
            return await self.services.admission.admit(call, partial(route.handle, self.services))
        return await route.handle(self.services, call)

    async def _send(self, call: Call, response: Response, request_id: bytes, send: Send) -> None:
        body, headers = response.body, [*response.headers, (b"x-request-id", request_id)]
        if response.status == 200 and call.scored_at:
            headers += how_it_went(call)
        if self.cors is not None:
            headers += self.cors.headers(call.headers)
        if len(body) >= compression.LEAST_BYTES and b"accept-encoding" in call.headers:
            body, added = await compression.compressed(body, call.headers[b"accept-encoding"])
            headers += added
        headers.append((b"content-length", b"%d" % len(body)))
        await respond(call.scope, send, status=response.status, headers=headers, body=body)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs from the start of this HTTP process, after the fork, until it has answered its last request."""
        name_process("valence-http")
        metrics.failures_at_zero(errors.TYPES)
        loop = asyncio.get_running_loop()
        self._tasks.add(loop.create_task(self.access.keep_fresh()))
        for link in self.links:
            self._tasks.add(loop.create_task(link.keep_connected()))
        self._tasks.add(loop.create_task(self.services.changes.follow()))
        tracer = self._tracer()
        if tracer is not None:
            self.observers.append(tracer.record)
        await self.app(scope, receive, send)
        self.tally.write()
        if tracer is not None:
            tracer.close()  # which may take a while: no client waits for this process any more

    def _tracer(self) -> "Tracer | None":
        endpoint = self.services.settings.otlp_endpoint
        if endpoint is None:
            return None
        from service.edge.telemetry.tracing import Tracer  # an extra brings it, which need not be installed

        return Tracer(endpoint)


def label_of(routes: ByMethod) -> str:
    """What metrics, log and traces call a path: the route of ours that it meets, never the path that a client sent."""
    for route in routes.values():
        return route.label or route.path
    return "other"


def how_it_went(call: Call) -> Headers:
    """The headers of a request that a model has answered."""
    return [
        (b"x-model", call.model.encode()),
        (b"x-tokens", b"%d" % call.tokens),
        (b"x-queue-time-ms", b"%.3f" % (1000 * call.queue_s)),
        (b"x-inference-time-ms", b"%.3f" % (1000 * call.inference_s)),
        (b"x-total-time-ms", b"%.3f" % (1000 * (time.perf_counter() - call.started_at))),
    ]
