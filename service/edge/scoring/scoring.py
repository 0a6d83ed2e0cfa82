"""From the texts of a request to logits: tokenization, then a worker."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from service.edge.http import errors
from service.edge.http.call import Call
from service.edge.scoring.dispatch import Dispatcher
from service.edge.scoring.models import EdgeModel
from service.frames import Job
from service.settings import Settings
from service.text.encoder import Text, Tokens
from service.text.refusal import TextRefused
from service.text.windows import combined

# More text than this is tokenized in a thread, so that it does not hold up the event loop (2 ms at 0.4 us a character).
INLINE_CHARACTERS = 5_000
# Requests with more text than this are tokenized one at a time: meanwhile a character takes up to 300 bytes.
LARGE_CHARACTERS = 100_000
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Texts:
    """What a request asks to be scored.

    `truncate` None: as the settings say. `window` goes before `truncate`. `truncate_left` None: as the tokenizer
    says. `timeout_s` None: as the request's headers say."""

    texts: Sequence[Text]
    truncate: bool | None = None
    truncate_left: bool | None = None
    window: bool = False
    timeout_s: float | None = None


class Scorer:
    """Scores the texts of requests, whatever route they came by."""

    def __init__(self, settings: Settings, dispatcher: Dispatcher) -> None:
        self.settings = settings
        self.dispatcher = dispatcher
        self._large = ThreadPoolExecutor(1, thread_name_prefix="large texts")

    async def logits(self, call: Call, model: EdgeModel, asked: Texts) -> list[list[float]]:
        """A row of logits for each text. ServiceError or ClientGone if a text has none."""
        self.check_count(len(asked.texts))
        call.model, call.texts = model.served.name, len(asked.texts)
        timeout_s = min(call.timeout_s, asked.timeout_s or call.timeout_s)
        model.in_flight += 1
        try:
            tokens = await self.tokenized(call, lambda: self._encode(model, asked), texts=asked.texts)
            call.tokens = sum(tokens.lengths)
            job = Job(0, model.place, call.arrived_at + timeout_s, time.monotonic(), tokens.lengths, tokens.ids, tokens.types)
            reply = await self.dispatcher.answered(call, job, timeout_s=timeout_s)
        finally:
            model.in_flight -= 1
        if reply.failed:
            failed = min(reply.failed)
            raise errors.backend(tokens.owners[failed] if tokens.owners else failed)
        call.is_scored = True
        return combined(reply.rows, owners=tokens.owners, weights=tokens.weights) if tokens.owners else reply.rows

    def check_count(self, texts: int) -> None:
        """ServiceError 422 for more texts than one request may hold."""
        limit = self.settings.max_client_batch_size
        if texts > limit:
            raise errors.validation(f"inputs: {texts} texts exceed the limit of {limit}; send fewer")

    async def tokenized(self, call: Call, encode: Callable[[], Made], *, texts: Sequence[Text]) -> Made:
        """What `encode` makes of the texts. Notes when that began and ended."""
        call.tokenization_started_at = time.perf_counter()
        encoded = await self.made(call, encode, characters=sum(len(text) + len(partner or "") for text, partner in texts))
        call.tokenized_at = time.perf_counter()
        return encoded

    async def made(self, call: Call, make: Callable[[], Made], *, characters: int) -> Made:
        """What `make` makes of so many characters: at once if they are few, in a thread if many, one after another if very many.

        ServiceError 504 if its turn comes after the deadline, 422 where it refuses a text."""
        try:
            if characters <= INLINE_CHARACTERS:
                return make()
            turn = self._large if characters > LARGE_CHARACTERS else None
            return await asyncio.get_running_loop().run_in_executor(turn, partial(_in_time, call, make))
        except TextRefused as refusal:
            raise errors.refused(refusal) from refusal.__cause__

    def _encode(self, model: EdgeModel, asked: Texts) -> Tokens:
        if asked.window:
            return model.encoder.encode_windows(asked.texts, max_windows=self.settings.max_client_batch_size)
        truncate = self.settings.auto_truncate if asked.truncate is None else asked.truncate
        return model.encoder.encode(asked.texts, truncate=truncate, from_left=asked.truncate_left)


def _in_time(call: Call, make: Callable[[], Made]) -> Made:
    if time.monotonic() > call.arrived_at + call.timeout_s:
        raise errors.timed_out(call.timeout_s)
    return make()
