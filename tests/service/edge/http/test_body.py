"""Bodies that do not come at once."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.edge.http import body as module
from service.edge.http.body import BodyReader
from service.edge.http.call import Call
from service.edge.http.errors import ServiceError

LIMIT = 100


def call(pieces: list[bytes], *, pause_s: float, timeout_s: float = 30) -> Call:
    """A request whose body comes in pieces, each after a pause, and never ends."""

    async def receive() -> dict[str, object]:
        await asyncio.sleep(pause_s if pieces else 60)
        return {"type": "http.request", "body": pieces.pop(0), "more_body": True}

    return Call({}, receive, {}, timeout_s=timeout_s)


def failure(reading: Callable[[], Awaitable[object]]) -> ServiceError:
    async def read() -> None:
        async with asyncio.timeout(10):
            await reading()

    with pytest.raises(ServiceError) as caught:
        asyncio.run(read())
    return caught.value


@pytest.mark.parametrize(
    ("pieces", "pause_s", "timeout_s", "status"),
    [
        ([], 0, 30, 408),
        ([b"a"] * 90, 0.05, 30, 408),
        ([b"a" * 50, b"a"], 0.05, 30, 408),
        ([], 0, 0.1, 504),
        ([b"a" * 60, b"a" * 60], 0.01, 30, 413),
    ],
    ids=["nothing comes", "it drips", "it stops", "the deadline is earlier", "it is too large"],
)
def test_a_body_that_does_not_come_is_given_up(
    monkeypatch: pytest.MonkeyPatch, pieces: list[bytes], pause_s: float, timeout_s: float, status: int
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.3)
    reader = BodyReader(limit=LIMIT)
    assert failure(lambda: reader.read(call(pieces, pause_s=pause_s, timeout_s=timeout_s))).status == status
    assert reader._bytes == 0


def test_the_oldest_body_makes_room_for_others() -> None:
    reader = BodyReader(limit=LIMIT)
    oldest = call([b"a" * LIMIT], pause_s=0)

    async def crowd() -> None:
        first = asyncio.create_task(reader.read(oldest))
        await asyncio.sleep(0)
        others = [asyncio.create_task(reader.read(call([b"a" * LIMIT], pause_s=0.01))) for _ in range(module.MOST_BODIES)]
        try:
            await first
        finally:
            assert not any(other.done() for other in others)
            assert reader._bytes == module.MOST_BODIES * LIMIT
            for other in others:
                other.cancel()

    assert failure(crowd).status == 429
