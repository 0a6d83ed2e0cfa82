"""Texts to token ids, in the HTTP process."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from tokenizers import Encoding, Tokenizer

from service.text.ascii import for_ascii
from service.text.refusal import TextRefused, unreadable
from service.text.windows import Window, cut

# A text, and its partner for models of text pairs.
Text = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The texts of a request as token ids, one after another; `types` only if a text has a partner.

    If a text was cut into windows, each row is a window. `owners`: the text of each window. `weights`: how many tokens of that
    text it holds.
    """

    lengths: list[int]
    ids: bytes
    types: bytes
    owners: Sequence[int] = ()
    weights: Sequence[int] = ()


class TextEncoder:
    """A trained pipeline with its special tokens, at a model's length limit.

    Truncation is state of the Rust object. So there is a copy of it for each way to truncate, and requests do not wait for each
    other. The two common ways, uncut and cut on the right, have a second copy with a shorter pipeline for texts of ASCII.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int) -> None:
        self.max_length = max_length
        both = (tokenizer, for_ascii(tokenizer))
        self._whole = [self._copy(one, truncate_to=None) for one in both]
        self._right = [self._copy(one, truncate_to="right") for one in both]
        self._left = [self._copy(tokenizer, truncate_to="left")] * 2

    def encode(self, texts: Sequence[Text], *, truncate: bool, from_left: bool = False) -> Tokens:
        """Token ids of `texts`. TextRefused names the limit and the length of a text that does not fit."""
        tokenizers = (self._left if from_left else self._right) if truncate else self._whole
        tokens = _tokens(self._encode(tokenizers, texts), texts)
        if not truncate and max(tokens.lengths) > self.max_length:
            index = next(i for i, length in enumerate(tokens.lengths) if length > self.max_length)
            raise TextRefused(
                f"inputs[{index}]: {tokens.lengths[index]} tokens exceed the model's limit of {self.max_length}; "
                'shorten the text or send truncate: true, or overflow: "window"'
            )
        return tokens

    def encode_windows(self, texts: Sequence[Text], *, max_windows: int) -> Tokens:
        """Token ids of `texts`; a text that does not fit is cut into windows. TextRefused for more than `max_windows`.

        A text that fits counts as one window.
        """
        windows = cut(self._encode(self._whole, texts), max_length=self.max_length, max_windows=max_windows)
        tokens = _tokens(windows, texts)
        if len(windows) == len(texts):
            return tokens
        return replace(tokens, owners=[window.text for window in windows], weights=[window.weight for window in windows])

    def encodings(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[Encoding]:
        """The texts uncut, with their offsets, which `encode` leaves out. TextRefused as there."""
        try:
            return self._whole[0].encode_batch(texts, add_special_tokens=add_special_tokens)
        except Exception as error:  # as in `_encode`
            raise unreadable() from error

    def encoding(self, text: str, *, truncate: bool) -> Encoding:
        """One text as `encode` cuts it, with offsets. TextRefused as there."""
        try:
            found = (self._right if truncate else self._whole)[0].encode(text)
        except Exception as error:  # as in `_encode`
            raise unreadable() from error
        if len(found) > self.max_length:
            raise TextRefused(
                f"inputs: {len(found)} tokens exceed the model's limit of {self.max_length}; shorten it or send truncate: true"
            )
        return found

    def _encode(self, tokenizers: Sequence[Tokenizer], texts: Sequence[Text]) -> list[Encoding]:
        any_text, ascii_only = tokenizers
        inputs = [text if partner is None else (text, partner) for text, partner in texts]
        others = [place for place, text in enumerate(texts) if not _is_ascii(*text)]
        try:
            if not others:
                return ascii_only.encode_batch_fast(inputs)
            if len(others) == len(inputs):
                return any_text.encode_batch_fast(inputs)
            found = dict(zip(others, any_text.encode_batch_fast([inputs[place] for place in others]), strict=True))
            rest = iter(ascii_only.encode_batch_fast([text for place, text in enumerate(inputs) if place not in found]))
        except Exception as error:  # the Rust library raises bare Exception, for example on a lone surrogate
            raise unreadable() from error
        return [found[place] if place in found else next(rest) for place in range(len(inputs))]

    def _copy(self, tokenizer: Tokenizer, *, truncate_to: str | None) -> Tokenizer:
        copy = Tokenizer.from_str(tokenizer.to_str())
        copy.no_padding()
        copy.no_truncation()
        if truncate_to is not None:
            copy.enable_truncation(self.max_length, direction=truncate_to)
        return copy


def _is_ascii(text: str, partner: str | None) -> bool:
    return text.isascii() and (partner is None or partner.isascii())


def _tokens(rows: Sequence[Encoding | Window], texts: Sequence[Text]) -> Tokens:
    ids = [row.ids for row in rows]
    paired = any(partner is not None for _, partner in texts)
    types = _join([row.type_ids for row in rows]) if paired else b""
    return Tokens(lengths=list(map(len, ids)), ids=_join(ids), types=types)


def _join(rows: list[list[int]]) -> bytes:
    ids = rows[0] if len(rows) == 1 else list(chain.from_iterable(rows))
    return struct.pack(f"<{len(ids)}i", *ids)  # a third of the time that numpy takes for a text
