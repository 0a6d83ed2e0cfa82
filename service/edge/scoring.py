"""From texts to logits, in one HTTP process: admission, tokenization, the worker with the least to do, the deadline."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from starlette.types import Receive

from service import metrics
from service.edge import errors
from service.edge.admission import InFlight
from service.edge.call import Call, ClientGone
from service.edge.errors import ServiceError
from service.edge.link import Link, Reply
from service.edge.routes.predict import Text
from service.edge.text.encoder import TextEncoder, Tokens
from service.edge.text.windows import combined
from service.frames import Explained
from service.served.catalog import ServedModel
from service.settings import Settings

log = logging.getLogger("valence.scoring")
# An overload is summed up for so long before it is logged.
REFUSALS_S = 5.0
# Requests older than this are watched for a client that has gone; faster ones pay nothing for it.
WATCH_AFTER_S = 0.1
# More text than this is tokenized in a thread, so that it does not hold up the event loop (2 ms at 0.4 us a character).
INLINE_CHARACTERS = 5_000
# More than this, and one request is tokenized at a time: meanwhile a character takes up to 300 bytes.
LARGE_CHARACTERS = 100_000
Made = TypeVar("Made")
Answered = TypeVar("Answered", Reply, Explained)
# A job's number on its link, and what it will be answered.
Ticket = tuple[int, asyncio.Future[Answered]]


@dataclass(slots=True)
class Job:
    """What a request asks of one model. `truncate` None: as the settings say. `window` goes before it."""

    place: int
    texts: Sequence[Text]
    timeout_s: float
    truncate: bool | None = None
    truncate_left: bool = False
    window: bool = False


@dataclass(slots=True)
class Scored:
    """Logits by text in `reply.rows`."""

    model: ServedModel
    tokens: Tokens
    reply: Reply
    meter: metrics.RequestMeter


@dataclass(slots=True)
class Served:
    """A model as this process serves it. `blank_id`: the token that stands for no word in an explanation's baseline.
    `in_flight`: requests that are on their way through it."""

    model: ServedModel
    encoder: TextEncoder
    blank_id: int
    meter: metrics.RequestMeter
    in_flight: int = 0


class Scorer:
    """Scores the texts of requests, whatever route they came by."""

    def __init__(
        self,
        settings: Settings,
        links: Sequence[Link],
        *,
        in_flight: InFlight,
    ) -> None:
        """No model is served before `serve`."""
        self.settings = settings
        self.links = links
        self.in_flight = in_flight
        self._refused = 0
        self.served: dict[int, Served] = {}
        self._places: dict[str, int] = {}
        self._default = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._large = ThreadPoolExecutor(1, thread_name_prefix="large texts")

    @property
    def catalog(self) -> dict[int, ServedModel]:
        """What clients may ask for, by place; the first is the default model."""
        return {place: self.served[place].model for place in self._places.values()}

    def serve(self, served: Mapping[int, Served]) -> None:
        """New requests go to these from now on; those in flight end where they are."""
        self.served |= served
        self._places = {one.model.name: place for place, one in served.items()}
        self._default = next(iter(served))

    def drop_idle(self) -> bool:
        """Drops the models that are served no more once no request is on its way through them; whether there was one."""
        idle = [place for place in self.served.keys() - self._places.values() if not self.served[place].in_flight]
        for place in idle:
            del self.served[place]
        return bool(idle)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Holds one of the requests in flight; 429 where there is none to be had."""
        try:
            self.in_flight.add()
        except ServiceError:
            self._note_refusal()
            raise
        try:
            yield
        finally:
            self.in_flight.remove()

    def _note_refusal(self) -> None:
        """Has an overload logged: a line for `REFUSALS_S` of it, not one for each request."""
        if not self._refused:
            asyncio.get_running_loop().call_later(REFUSALS_S, self._log_refusals)
        self._refused += 1

    def _log_refusals(self) -> None:
        log.warning(
            "overloaded: %d requests were answered 429 within %g s", self._refused, REFUSALS_S,
            extra={"refused": self._refused, "limit": self.in_flight.limit},
        )  # fmt: skip
        self._refused = 0

    def timeout_s(self, call: Call) -> float:
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

    def place(self, name: str | None) -> int:
        """Which model; without a name, the first served."""
        if name is None:
            return self._default
        if name not in self._places:
            raise errors.not_found("no such model; GET /info lists the served models")
        return self._places[name]

    def check_count(self, texts: int) -> None:
        """ServiceError 422 for more texts than one request may hold."""
        limit = self.settings.max_client_batch_size
        if texts > limit:
            raise errors.validation(f"inputs: {texts} texts exceed the limit of {limit}; send fewer")

    async def score(self, call: Call, job: Job) -> Scored:
        """The logits of the job's texts. ServiceError or ClientGone where there are none."""
        self.check_count(len(job.texts))
        served = self.served[job.place]
        call.model, call.texts = served.model.name, len(job.texts)
        served.in_flight += 1
        try:
            tokens = await self.tokenized(call, served, partial(self._encode, job, served.encoder), texts=job.texts)
            call.tokens = sum(tokens.lengths)
            reply = await self._compute(call, job, tokens)
        finally:
            served.in_flight -= 1
        reply.rows = combined(reply.rows, owners=tokens.owners, weights=tokens.weights)
        return Scored(served.model, tokens, reply, served.meter)

    def finished(self, call: Call, scored: Scored) -> list[tuple[bytes, bytes]]:
        """Observes a request that is about to be answered; the headers that say how it went."""
        metrics.TALLY.observed(scored.meter.duration, time.perf_counter() - call.started_at)
        return headers(call)

    async def tokenized(self, call: Call, served: Served, encode: Callable[[], Made], *, texts: Sequence[Text]) -> Made:
        """What `encode` makes of the texts."""
        call.tokenization_started_at = time.perf_counter()
        encoded = await self.made(call, encode, characters=sum(len(text) + len(partner or "") for text, partner in texts))
        call.tokenized_at = time.perf_counter()
        metrics.TALLY.observed(served.meter.tokenization, call.tokenized_at - call.tokenization_started_at)
        return encoded

    async def made(self, call: Call, make: Callable[[], Made], *, characters: int) -> Made:
        """What `make` makes of so many characters: at once, in a thread, or when its turn comes; 504 if that is too late."""
        if characters <= INLINE_CHARACTERS:
            return make()
        timeout_s = self.timeout_s(call)

        def make_in_time() -> Made:
            if time.monotonic() > call.arrived_at + timeout_s:
                raise errors.timed_out(timeout_s)
            return make()

        turn = self._large if characters > LARGE_CHARACTERS else None
        return await asyncio.get_running_loop().run_in_executor(turn, make_in_time)

    def _encode(self, job: Job, encoder: TextEncoder) -> Tokens:
        if job.window:
            return encoder.encode_windows(job.texts, max_windows=self.settings.max_client_batch_size)
        truncate = self.settings.auto_truncate if job.truncate is None else job.truncate
        return encoder.encode(job.texts, truncate=truncate, from_left=job.truncate_left)

    async def _compute(self, call: Call, job: Job, tokens: Tokens) -> Reply:
        """The worker's answer; ServiceError or ClientGone where there is none."""
        reply = await self.answered(
            call,
            lambda link, deadline: link.submit(tokens, model=job.place, deadline=deadline),  # a `def` would evaluate its types
            place=job.place,
            timeout_s=job.timeout_s,
        )
        if reply.failed:
            failed = min(reply.failed)
            raise errors.backend(tokens.owners[failed] if tokens.owners else failed)
        return reply

    async def answered(
        self, call: Call, ask: Callable[[Link, float], Ticket[Answered]], *, place: int, timeout_s: float
    ) -> Answered:
        """Asks the worker with the least to do, by its link and with a deadline, and waits; 503, 504 or ClientGone if no answer
        comes."""
        ready = [link for link in self.links if link.has(place)]
        if not ready:
            raise errors.unhealthy("no worker is ready yet; retry")
        link = min(ready, key=lambda link: len(link.pending))
        deadline = call.arrived_at + timeout_s
        call.submitted_at = time.perf_counter()
        job_id, future = ask(link, deadline)
        watch = asyncio.get_running_loop().call_later(
            min(WATCH_AFTER_S, timeout_s), self._watch, call.receive, future, deadline, timeout_s
        )
        try:
            answer = await future
        except (ServiceError, ClientGone, asyncio.CancelledError):
            link.forget(job_id)
            raise
        finally:
            watch.cancel()
        link.settle(job_id)
        call.scored_at, call.queue_s, call.inference_s = time.perf_counter(), answer.queue_s, answer.inference_s
        return answer

    def _watch(self, receive: Receive, future: asyncio.Future[Answered], deadline: float, timeout_s: float) -> None:
        task = asyncio.get_running_loop().create_task(watch_slow_request(receive, future, deadline, timeout_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        future.add_done_callback(lambda _: task.cancel())


def headers(call: Call) -> list[tuple[bytes, bytes]]:
    """How a request that a model has answered went."""
    return [
        (b"x-model", call.model.encode()),
        (b"x-tokens", b"%d" % call.tokens),
        (b"x-queue-time-ms", b"%.3f" % (1000 * call.queue_s)),
        (b"x-inference-time-ms", b"%.3f" % (1000 * call.inference_s)),
        (b"x-total-time-ms", b"%.3f" % (1000 * (time.perf_counter() - call.started_at))),
    ]


async def watch_slow_request(receive: Receive, future: asyncio.Future[Any], deadline: float, timeout_s: float) -> None:
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
