"""What a text may cost before and while it is tokenized."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from service.edge.http.call import Call
from service.edge.http.errors import ServiceError
from service.edge.scoring import scoring
from service.edge.scoring.models import EdgeModel
from service.edge.scoring.scoring import Scorer, Texts
from service.served.catalog import ServedModel
from service.settings import Settings
from service.text.encoder import Tokens

MadeBy = Callable[..., Any]


async def _receive() -> Mapping[str, Any]:
    raise NotImplementedError


@pytest.fixture
def made() -> MadeBy:
    """What a scorer of these settings makes of texts, or the error."""

    def make(texts: list[str], make: Callable[[], object] = lambda: "made", *, timeout_s: float = 30, **fields: object) -> Any:
        scorer = Scorer(Settings(**fields), SimpleNamespace())
        call = Call({}, _receive, {}, timeout_s=timeout_s)
        try:
            return asyncio.run(scorer.made(call, make, texts=[(text, None) for text in texts]))
        except ServiceError as error:
            return error

    return make


@pytest.mark.parametrize(
    ("texts", "fields", "told"),
    [
        (["good", "a" * 250_000], {}, None),
        (["good", "a" * 250_001], {}, "inputs[1]: 250001 characters exceed the limit of 250000"),
        (["\ufdfa" * 13_000], {}, None),
        (["\ufdfa" * 14_000], {}, "inputs[0]: 252000 characters exceed the limit of 250000"),
        (["\ufdfa" * 3], {"max_text_characters": 54}, None),
        (["\ufdfa" * 3], {"max_text_characters": 53}, "inputs[0]: 54 characters exceed the limit of 53"),
        (["aa"], {"max_text_characters": 1}, "inputs[0]: 2 characters exceed the limit of 1"),
        (["\ufdfa" * 13_000] * 9, {}, "inputs: 2106000 characters in all exceed the limit of 2000000"),
    ],
)
def test_a_text_is_bounded_in_characters(made: MadeBy, texts: list[str], fields: dict[str, object], told: str | None) -> None:
    answer = made(texts, **fields)
    if told is None:
        assert answer == "made"
    else:
        assert (answer.status, answer.error_type) == (422, "validation")
        assert answer.message.startswith(told)


@pytest.mark.parametrize("characters", [10_000, 200_000])
def test_a_text_that_takes_too_long_is_504_at_its_deadline(made: MadeBy, characters: int) -> None:
    ends = threading.Event()
    threading.Timer(3, ends.set).start()
    answers: list[tuple[Any, float]] = []

    def ask() -> None:
        begun_at = time.monotonic()
        scorer = Scorer(Settings(), SimpleNamespace())
        call = Call({}, _receive, {}, timeout_s=0.2)

        async def timed() -> None:
            with pytest.raises(ServiceError) as caught:
                await scorer.made(call, lambda: ends.wait(10), texts=[("a" * characters, None)])
            answers.append((caught.value.status, time.monotonic() - begun_at))

        asyncio.run(timed())

    ask()
    ((status, seconds),) = answers
    assert status == 504
    assert seconds < 2


def test_a_text_without_a_token_is_refused_by_its_place(catalog: Mapping[str, ServedModel]) -> None:
    encoder = SimpleNamespace(encode=lambda *_, **__: Tokens(lengths=[2, 0], ids=b"", types=b""))
    model = EdgeModel(0, catalog["tiny-bert"], encoder, 0, lambda **_: encoder)
    call = Call({}, _receive, {}, timeout_s=30)
    scorer = Scorer(Settings(), SimpleNamespace())
    with pytest.raises(ServiceError) as caught:
        asyncio.run(scorer.logits(call, model, Texts([("good", None), (" ", None)])))
    assert (caught.value.status, caught.value.message[:9]) == (422, "inputs[1]")
    assert model.in_flight == 0


def test_after_large_texts_memory_is_given_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(scoring, "GIVE_BACK_S", 0.1)
    monkeypatch.setattr(scoring, "give_memory_back", lambda: given.append(time.monotonic()))
    call = Call({}, _receive, {}, timeout_s=30)

    async def several() -> None:
        scorer = Scorer(Settings(), SimpleNamespace())
        for characters in (10, 200_000, 10_000, 200_000):
            await scorer.made(call, lambda: None, texts=[("a" * characters, None)])
        await asyncio.sleep(0.5)

    asyncio.run(several())
    assert len(given) == 1


def test_giving_memory_back_works_here() -> None:
    scoring.give_memory_back()
