"""Which worker computes a request, and how long its answer is waited for."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, overload

from starlette.types import Receive

from service.edge.http import errors
from service.edge.http.call import Call, ClientGone
from service.edge.http.errors import ServiceError
from service.edge.scoring.link import Link, Reply
from service.edge.scoring.under_way import TokensUnderWay
from service.frames import ID_TYPE, Explain, Explained, Job

# Requests older than this are watched for a client that has gone; faster ones pay nothing for it.
WATCH_AFTER_S = 0.1


class Dispatcher:
    """Asks workers, through the links to all of them."""

    def __init__(self, links: Sequence[Link], under_way: TokensUnderWay) -> None:
        self.links = links
        self.under_way = under_way
        self._tasks: set[asyncio.Task[None]] = set()

    @overload
    async def answered(self, call: Call, asked: Job, *, timeout_s: float) -> Reply: ...

    @overload
    async def answered(self, call: Call, asked: Explain, *, timeout_s: float) -> Explained: ...

    async def answered(self, call: Call, asked: Job | Explain, *, timeout_s: float) -> Reply | Explained:
        """Asks the worker with the least to do and waits. ServiceError 503 or 504, or ClientGone, if no answer comes."""
        ready = [worker for worker, link in enumerate(self.links) if asked.model in link.places]
        if not ready:
            raise errors.unhealthy("no worker is ready yet; retry")
        worker, tokens = self.under_way.least(ready), len(asked.token_ids) // ID_TYPE.itemsize
        link = self.links[worker]
        call.submitted_at = time.perf_counter()
        future = link.ask(asked)
        wait = asyncio.get_running_loop().call_later(
            min(WATCH_AFTER_S, timeout_s), self._watch, call.receive, future, asked.deadline, timeout_s
        )
        self.under_way.add(worker, tokens)
        try:
            answer = await future
        except (ServiceError, ClientGone, asyncio.CancelledError):
            link.forget(asked.id)
            raise
        finally:
            self.under_way.add(worker, -tokens)
            wait.cancel()
        call.scored_at, call.queue_s, call.inference_s = time.perf_counter(), answer.queue_s, answer.inference_s
        return answer

    def _watch(self, receive: Receive, future: asyncio.Future[Any], deadline: float, timeout_s: float) -> None:
        task = asyncio.get_running_loop().create_task(watch_slow_request(receive, future, deadline, timeout_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        future.add_done_callback(lambda _: task.cancel())


async def watch_slow_request(receive: Receive, future: asyncio.Future[Any], deadline: float, timeout_s: float) -> None:
    """Ends the wait for an answer once the client goes away or the deadline passes: the future gets that error."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            while (await receive())["type"] != "http.disconnect":
                pass
        failure: Exception = ClientGone()
    except TimeoutError:
        failure = errors.timed_out(timeout_s)
    if not future.done():
        future.set_exception(failure)
