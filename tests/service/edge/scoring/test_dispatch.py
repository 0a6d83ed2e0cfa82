"""Work is shared out by what all HTTP processes have asked of each worker."""

import asyncio
import multiprocessing
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.edge.http.errors import ServiceError, unhealthy
from service.edge.scoring.dispatch import Dispatcher
from service.edge.scoring.link import Reply
from service.edge.scoring.under_way import TokensUnderWay
from service.frames import Job


class StandInLink:
    """A link to a worker that answers when it is told to."""

    def __init__(self) -> None:
        self.places = {0: {}}
        self.asked: list[tuple[Job, asyncio.Future[Reply]]] = []

    def ask(self, job: Job) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.asked.append((job, future))
        return future

    def forget(self, job_id: int) -> None: ...

    def answer(self) -> None:
        for _, future in self.asked:
            future.set_result(Reply(future, missing=0, rows=[]))


def job(*lengths: int) -> Job:
    return Job(0, 0, 1e12, 0, list(lengths), np.zeros(sum(lengths), "<i4").tobytes())


async def ask(dispatcher: Dispatcher, *lengths: int) -> asyncio.Task[Any]:
    """A request that waits for its answer."""
    call: Any = SimpleNamespace(receive=None)
    task = asyncio.create_task(dispatcher.answered(call, job(*lengths), timeout_s=30))
    await asyncio.sleep(0)
    return task


def run_forked(work: Callable[[], None]) -> None:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(10)
    assert process.exitcode == 0


def test_a_worker_with_many_tokens_gets_less_than_one_with_many_requests() -> None:
    links: Any = [StandInLink(), StandInLink()]

    async def serve() -> None:
        dispatcher = Dispatcher(links, TokensUnderWay(processes=1, workers=2))
        tasks = [await ask(dispatcher, *[20] * 256)]
        tasks += [await ask(dispatcher, 20) for _ in range(50)]
        assert sorted(len(link.asked) for link in links) == [1, 50]
        for link in links:
            link.answer()
        await asyncio.gather(*tasks)
        assert [dispatcher.under_way.of(worker) for worker in (0, 1)] == [0, 0]

    asyncio.run(serve())


def test_each_process_begins_with_an_idle_worker_by_lot() -> None:
    found = Counter(TokensUnderWay(processes=2, workers=3).least([0, 2]) for _ in range(400))
    assert found.keys() == {0, 2}
    assert min(found.values()) > 100


def test_lone_requests_go_to_one_worker_which_has_all_cores() -> None:
    under_way = TokensUnderWay(processes=1, workers=3)
    (first,) = {under_way.least([0, 1, 2]) for _ in range(50)}
    under_way.add(first, 20)
    other = under_way.least([0, 1, 2])
    assert other != first
    under_way.add(first, -20)
    assert {under_way.least([0, 1, 2]) for _ in range(50)} == {other}
    assert under_way.least([first]) == first


def test_what_other_processes_have_asked_counts() -> None:
    under_way = TokensUnderWay(processes=2, workers=2)
    under_way.enter(1)
    run_forked(lambda: under_way.add(0, 100))
    under_way.enter(0)
    under_way.add(1, 50)
    assert [under_way.of(0), under_way.of(1)] == [100, 50]
    assert {under_way.least([0, 1]) for _ in range(50)} == {1}
    under_way.enter(1)  # that process died: its place is taken again
    assert [under_way.of(0), under_way.of(1)] == [0, 50]


def test_what_a_lost_worker_was_asked_is_no_longer_counted() -> None:
    links: Any = [StandInLink()]

    async def serve() -> None:
        dispatcher = Dispatcher(links, TokensUnderWay(processes=1, workers=1))
        task = await ask(dispatcher, 20)
        assert dispatcher.under_way.of(0) == 20
        links[0].asked[0][1].set_exception(unhealthy("the worker died"))
        with pytest.raises(ServiceError):
            await task
        assert dispatcher.under_way.of(0) == 0

    asyncio.run(serve())
