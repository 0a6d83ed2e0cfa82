"""Real texts that a model is tried out on: words that its tokenizer knows, in several lengths up to its limit, and a pair."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from service.engine.packs import TextIds

# Everyday words, so that most tokenizers for English know them; another tokenizer's words come from its own vocabulary.
WORDS = """
the a and of to in is it that was for on with as be at by this had not are but from or have an they which one you were all her
she there would their we him been has when who will no more if out so up said what its about than into them can only other time
new some could these two may first then do any like my now over such our man me even most made after also did many before must
through years where much way well down should because long each just state those people too little good world day very great
still men here life both between house under last never place old while work might again
""".split()  # noqa: SIM905
LEAST_KNOWN = 12
# Tokens of each text. Two have one length, so that they may share a batch without padding; and each has a neighbour that is a
# little longer, so that a batch of similar lengths pads it.
LENGTHS = (110, 17, 9, 17, 96, 5, 20, 3, 40, 11, 44, 6)
# A text as long as the limit allows is among them up to this; beyond, one so long.
MOST_TOKENS = 1024
PAIR = 24
Inputs = Mapping[str, list[int]]


@dataclass(frozen=True)
class Trial:
    """One text as the tokenizer gives it to a user of transformers (`inputs`, a row each), and as the engine gets it."""

    inputs: Inputs
    text: TextIds

    def __len__(self) -> int:
        return len(self.text.ids)


class TrialTexts:
    """Makes trials with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.words = known_words(tokenizer)

    def of_length(self, tokens: int, *, seed: int) -> Trial | None:
        """A text of so many tokens, special ones included, or of the next number below; None where there is none so short."""
        return self._trial(self._sentence(tokens, seed), tokens)

    def some(self, max_length: int) -> list[TextIds]:
        """A few short texts, the shortest first."""
        lengths = [length for length in (5, 9, 17, 33) if length <= max_length] or [max_length]
        return [trial.text for length in lengths if (trial := self.of_length(length, seed=length)) is not None]

    def pair(self, tokens: int) -> Trial | None:
        """Two texts; None where the tokenizer takes no pairs."""
        first, second = self._sentence(tokens // 3, seed=-1), self._sentence(tokens, seed=-2)
        try:
            return self._trial(first, tokens, second)
        except (TypeError, ValueError, NotImplementedError):
            return None

    def _sentence(self, tokens: int, seed: int) -> str:
        drawn = random.Random(seed)
        return " ".join(drawn.choice(self.words) for _ in range(tokens + 1))

    def _trial(self, text: str, tokens: int, partner: str | None = None) -> Trial | None:
        found = self.tokenizer(text, partner, truncation=True, max_length=tokens) if partner else self.tokenizer(
            text, truncation=True, max_length=tokens
        )  # fmt: skip
        inputs = {name: list(row) for name, row in found.items()}
        ids = inputs["input_ids"]
        return Trial(inputs, TextIds(ints(ids), types_of(inputs))) if 0 < len(ids) <= tokens else None


def types_of(inputs: Inputs) -> npt.NDArray[np.int32] | None:
    """Token types as the HTTP process sends them: None where there are none, or all are 0."""
    types = inputs.get("token_type_ids")
    return ints(types) if types is not None and any(types) else None


def ints(row: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.array(row, dtype=np.int32)


def known_words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Everyday words that the tokenizer reads without an unknown token, or words of its own vocabulary."""
    known = [word for word in WORDS if is_known(tokenizer, word)]
    return known if len(known) >= LEAST_KNOWN else known + (list(islice(own_words(tokenizer), 200)) or list(WORDS))


def is_known(tokenizer: PreTrainedTokenizerBase, word: str) -> bool:
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    return bool(ids) and tokenizer.unk_token_id not in ids


def own_words(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Words of the vocabulary, in an order of no meaning."""
    ids = list(range(len(tokenizer)))
    random.Random(0).shuffle(ids)
    special = set(tokenizer.all_special_ids)
    for number in ids:
        word = tokenizer.decode([number]).strip() if number not in special else ""
        if len(word) > 1 and word.isalpha() and is_known(tokenizer, word):
            yield word
