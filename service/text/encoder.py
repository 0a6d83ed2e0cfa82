"""Texts to token ids, in the HTTP process, by the Rust object of a tokenizer: what transformers' own call would give."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from tokenizers import Encoding, Tokenizer

from service.text.ascii import for_ascii
from service.text.refusal import TextRefused, too_long, unreadable, without_tokens
from service.text.windows import Window, cut

# A text, and its partner for models of text pairs.
Text = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The texts of a request as token ids, one after another. `types`: of each token; empty where the tokenizer gives none, and
    where all are zero.

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

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        has_types: bool = True,
        from_left: bool = False,
        ascii_apart: bool = True,
    ) -> None:
        """`has_types`: the model takes those that the pipeline gives. `from_left`: which side is cut unless a request says so.
        `ascii_apart`: texts of ASCII go through the shorter pipeline."""
        self.max_length = max_length
        self.from_left = from_left
        both = (tokenizer, for_ascii(tokenizer) if ascii_apart else tokenizer)
        self._whole = [self._copy(one, truncate_to=None) for one in both]
        usual, other = ("left", "right") if from_left else ("right", "left")
        self._usual = [self._copy(one, truncate_to=usual) for one in both]
        self._other = [self._copy(tokenizer, truncate_to=other)] * 2
        self._types_pairs = has_types
        self._types_all = has_types and any(self._whole[0].encode("a").type_ids)

    def encode(self, texts: Sequence[Text], *, truncate: bool, from_left: bool | None = None) -> Tokens:
        """Token ids of `texts`. TextRefused names the limit and the length of a text that does not fit."""
        tokens = self._tokens(self._encode(self._cut(from_left) if truncate else self._whole, texts), texts)
        if not truncate and max(tokens.lengths) > self.max_length:
            index = next(i for i, length in enumerate(tokens.lengths) if length > self.max_length)
            raise too_long(index, length=tokens.lengths[index], max_length=self.max_length)
        return tokens

    def encode_windows(self, texts: Sequence[Text], *, max_windows: int) -> Tokens:
        """Token ids of `texts`; a text that does not fit is cut into windows. TextRefused for more than `max_windows`.

        A text that fits counts as one window.
        """
        windows = cut(self._encode(self._whole, texts), max_length=self.max_length, max_windows=max_windows)
        tokens = self._tokens(windows, texts)
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
        """One text as `encode` cuts it, with offsets, to be explained. TextRefused as there, and where the tokens have types."""
        if self._types_all:
            raise TextRefused("model: the tokens of its texts have types, which an explanation does not know")
        try:
            found = (self._cut(None) if truncate else self._whole)[0].encode(text)
        except Exception as error:  # as in `_encode`
            raise unreadable() from error
        if not found:
            raise without_tokens("inputs")
        if len(found) > self.max_length:
            raise TextRefused(
                f"inputs: {len(found)} tokens exceed the model's limit of {self.max_length}; shorten it or send truncate: true"
            )
        return found

    def _encode(self, tokenizers: Sequence[Tokenizer], texts: Sequence[Text]) -> list[Encoding]:
        any_text, ascii_only = tokenizers
        inputs = [(text, partner) if partner else text for text, partner in texts]  # an empty partner is none to transformers
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

    def _cut(self, from_left: bool | None) -> list[Tokenizer]:
        return self._usual if from_left is None or from_left == self.from_left else self._other

    def _tokens(self, rows: Sequence[Encoding | Window], texts: Sequence[Text]) -> Tokens:
        ids = [row.ids for row in rows]
        lengths = list(map(len, ids))
        if 0 in lengths:
            row = rows[place := lengths.index(0)]
            raise without_tokens(f"inputs[{row.text if isinstance(row, Window) else place}]")
        is_typed = self._types_all or (self._types_pairs and any(partner for _, partner in texts))
        return Tokens(lengths=lengths, ids=joined(ids), types=joined_types(row.type_ids for row in rows) if is_typed else b"")

    def _copy(self, tokenizer: Tokenizer, *, truncate_to: str | None) -> Tokenizer:
        copy = Tokenizer.from_str(tokenizer.to_str())
        copy.no_padding()
        copy.no_truncation()
        if truncate_to is not None:
            copy.enable_truncation(self.max_length, direction=truncate_to)
        copy.encode_special_tokens = tokenizer.encode_special_tokens
        return copy


def _is_ascii(text: str, partner: str | None) -> bool:
    return text.isascii() and (partner is None or partner.isascii())


def joined(rows: Sequence[Sequence[int]]) -> bytes:
    """Rows of ids as they cross to the worker."""
    ids = rows[0] if len(rows) == 1 else list(chain.from_iterable(rows))
    return struct.pack(f"<{len(ids)}i", *ids)  # a third of the time that numpy takes for a text


def joined_types(rows: Iterable[Sequence[int]]) -> bytes:
    """The same of types; nothing where all are zero."""
    types = joined(list(rows))
    return types if types.count(0) < len(types) else b""
