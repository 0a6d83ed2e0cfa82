"""From the texts of a request to logits: tokenization, then a worker."""

import asyncio
import ctypes
import time
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from service.edge.http import errors
from service.edge.http.call import Call, ClientGone
from service.edge.http.connection import is_gone
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
# NFKC, with which most tokenizers begin, makes so many characters of one at most: U+FDFA.
EXPANSION = 18
PIECE_CHARACTERS = 5_000
# The memory of texts that were tokenized in a thread is given back to the system after so long.
GIVE_BACK_S = 5.0
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
        # So many characters are tokenized at once, and can't be over a limit.
        self._inline_characters = min(INLINE_CHARACTERS, settings.max_text_characters // EXPANSION)
        self._large = ThreadPoolExecutor(1, thread_name_prefix="large texts")
        self._gives_back = False

    async def logits(self, call: Call, model: EdgeModel, asked: Texts) -> list[list[float]]:
        """A row of logits for each text. ServiceError or ClientGone if a text has none."""
        self.check_count(len(asked.texts))
        call.model, call.texts = model.served.name, len(asked.texts)
        call.timeout_s = min(call.timeout_s, asked.timeout_s or call.timeout_s)
        model.in_flight += 1
        try:
            tokens = await self.tokenized(call, lambda: self._encode(model, asked), texts=asked.texts)
            if not all(tokens.lengths):
                raise errors.no_tokens(tokens.lengths.index(0))
            call.tokens = sum(tokens.lengths)
            job = Job(
                0, model.place, call.arrived_at + call.timeout_s, time.monotonic(), tokens.lengths, tokens.ids, tokens.types
            )
            reply = await self.dispatcher.answered(call, job, timeout_s=call.timeout_s)
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
        encoded = await self.made(call, encode, texts=texts)
        call.tokenized_at = time.perf_counter()
        return encoded

    async def made(self, call: Call, make: Callable[[], Made], *, texts: Sequence[Text]) -> Made:
        """What `make` makes of the texts: at once if they are short, in a thread if long, one after another if very long.

        ServiceError 504 at the deadline, whether its turn has come or not; 422 where a text is too long or refused by `make`."""
        characters = sum(len(text) + len(partner or "") for text, partner in texts)
        try:
            if characters <= self._inline_characters:
                return make()
            self._give_back_later()
            turn = self._large if characters > LARGE_CHARACTERS else None
            async with asyncio.timeout(call.arrived_at + call.timeout_s - time.monotonic()):
                return await asyncio.get_running_loop().run_in_executor(turn, partial(self._in_time, call, make, texts))
        except TextRefused as refusal:
            raise errors.refused(refusal) from refusal.__cause__
        except TimeoutError:
            raise errors.timed_out(call.timeout_s) from None

    def _in_time(self, call: Call, make: Callable[[], Made], texts: Sequence[Text]) -> Made:
        """Runs in a thread. What nobody waits for any more is not made."""
        if is_gone(call.scope):
            raise ClientGone
        if time.monotonic() > call.arrived_at + call.timeout_s:
            raise TimeoutError
        self._check_characters(texts)
        return make()

    def _check_characters(self, texts: Sequence[Text]) -> None:
        """ServiceError 422 for a text of too many characters, or texts that become too many by normalization."""
        limit, most = self.settings.max_text_characters, self.settings.payload_limit
        every = 0
        for index, (text, partner) in enumerate(texts):
            characters = normalized_characters(text) + normalized_characters(partner or "")
            every += characters
            if characters > limit:
                raise errors.validation(f"inputs[{index}]: {characters} characters exceed the limit of {limit}; shorten the text")
        if every > most:
            raise errors.validation(f"inputs: {every} characters in all exceed the limit of {most}; send fewer texts")

    def _give_back_later(self) -> None:
        if not self._gives_back:
            self._gives_back = True
            asyncio.get_running_loop().call_later(GIVE_BACK_S, self._give_back)

    def _give_back(self) -> None:
        self._gives_back = False
        asyncio.get_running_loop().run_in_executor(None, give_memory_back)

    def _encode(self, model: EdgeModel, asked: Texts) -> Tokens:
        if asked.window:
            return model.encoder.encode_windows(asked.texts, max_windows=self.settings.max_client_batch_size)
        truncate = self.settings.auto_truncate if asked.truncate is None else asked.truncate
        return model.encoder.encode(asked.texts, truncate=truncate, from_left=asked.truncate_left)


def normalized_characters(text: str) -> int:
    """How many characters NFKC makes of a text, or a few more: it is counted in pieces, so that little memory is needed.

    >>> normalized_characters("good"), normalized_characters("\ufdfa")
    (4, 18)
    """
    if text.isascii():
        return len(text)
    pieces = (text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS))
    return sum(len(unicodedata.normalize("NFKC", piece)) for piece in pieces)


def give_memory_back() -> None:
    """Gives free memory back to the system. glibc keeps it otherwise: a process stayed at 1.3 GB after an hour of large texts."""
    with suppress(AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)
