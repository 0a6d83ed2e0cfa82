"""Texts to token ids by a tokenizer that is called as it stands: one without a Rust object, or whose Rust object gives other ids.

Tens of times slower than `TextEncoder`.
"""

import copy
import logging
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from threading import Lock
from typing import NoReturn

from tokenizers import Encoding
from transformers import BatchEncoding, PreTrainedTokenizerBase

from service.text.control import control_ids, count_around, spells
from service.text.encoder import Text, Tokens, joined, joined_types
from service.text.refusal import TextRefused, too_long, unreadable, without_tokens

# transformers says there, of every pair that it cuts, that it does not return what nobody asked for.
TRANSFORMERS_LOG = logging.getLogger("transformers.tokenization_python")


class PlainEncoder:
    """What transformers' own call gives, and no more: where tokens begin and end in a text is not known, nor windows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int, control: Collection[str] = ()) -> None:
        """`control`: the tokens that are text like any other where a text holds them."""
        TRANSFORMERS_LOG.addFilter(_is_worth_saying)
        self.max_length = max_length
        self.from_left = tokenizer.truncation_side == "left"
        self._control = control
        self._control_ids = control_ids(tokenizer, control)
        self._is_fast = tokenizer.is_fast
        self._turn = Lock() if self._is_fast else nullcontext()  # a Rust object is set anew for each call
        self._by_side = {side: _cutting(tokenizer, side) for side in ("left", "right")}
        self._around = [count_around(tokenizer, self._control_ids, partner=partner) for partner in (None, "a")]

    def encode(self, texts: Sequence[Text], *, truncate: bool, from_left: bool | None = None) -> Tokens:
        """As `TextEncoder.encode`."""
        rows = [self._row(index, *text, truncate=truncate, from_left=from_left) for index, text in enumerate(texts)]
        ids = [row["input_ids"] for row in rows]
        types = joined_types(row["token_type_ids"] for row in rows) if "token_type_ids" in rows[0] else b""
        return Tokens(lengths=list(map(len, ids)), ids=joined(ids), types=types)

    def encode_windows(self, texts: Sequence[Text], *, max_windows: int) -> NoReturn:
        raise TextRefused(
            "overflow: windows need a tokenizer that tells where its tokens stand in a text, and this model's does not; "
            'send "truncate"'
        )

    def encodings(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[Encoding]:
        raise _no_offsets()

    def encoding(self, text: str, *, truncate: bool) -> Encoding:
        raise _no_offsets()

    def _row(self, index: int, text: str, partner: str | None, *, truncate: bool, from_left: bool | None) -> BatchEncoding:
        if self._is_fast:
            partner = partner or None  # as transformers does itself
        try:
            row = self._called(text, partner, truncate=truncate, from_left=from_left)
        except Exception as error:  # code of anyone's
            raise unreadable() from error
        length = len(row["input_ids"])
        if length == 0:
            raise without_tokens(f"inputs[{index}]")
        if not truncate and length > self.max_length:
            raise too_long(index, length=length, max_length=self.max_length, instead="send truncate: true")
        if sum(one in self._control_ids for one in row["input_ids"]) > self._around[partner is not None]:
            raise TextRefused(
                f"inputs[{index}]: holds a control token of this model's tokenizer, which can't be read as text; take it out"
            )
        return row

    def _called(self, text: str, partner: str | None, *, truncate: bool, from_left: bool | None = None) -> BatchEncoding:
        tokenizer = self._by_side["left" if (self.from_left if from_left is None else from_left) else "right"]
        options: dict[str, object] = {"truncation": True, "max_length": self.max_length} if truncate else {"truncation": False}
        if spells(self._control, text, partner):
            options["split_special_tokens"] = True  # all of them, also trained ones, but only in such a text
        with self._turn:
            return tokenizer(text, partner, verbose=False, **options)


def _cutting(tokenizer: PreTrainedTokenizerBase, side: str) -> PreTrainedTokenizerBase:
    made = copy.copy(tokenizer)
    made.truncation_side = side
    return made


def _is_worth_saying(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Be aware, overflowing tokens are not returned")


def _no_offsets() -> TextRefused:
    return TextRefused("model: its tokenizer does not tell where its tokens stand in a text; this route needs that")
