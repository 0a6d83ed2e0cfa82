"""Trains a tokenizer from files or an iterator, and saves it as a folder that `AutoTokenizer` loads."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tokenizers_store.pipelines import BYTE_TOKENS, CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK, Kind, build_pipeline

# A byte is worse than any learnt piece: its log probability lies this far below the rarest one's.
BYTE_TOKEN_PENALTY = 10.0
SCORE_DIGITS = 9


def train_tokenizer(
    texts: Iterable[str],
    *,
    kind: Kind,
    vocab_size: int,
    max_length: int = 512,
    length: int | None = None,
    show_progress: bool = True,
) -> PreTrainedTokenizerFast:
    """Trains on `texts`; the same texts give the same tokenizer. (Where two pieces are exactly as good, Unigram may keep either:
    the Rust trainer leaves that to a hash map. On real corpora it was not seen.) WordPiece keeps all texts in memory meanwhile.

    `max_length` is the model's limit in tokens, special ones included; `length` is the number of texts, for the progress bar.
    Raises ValueError when there is no text to learn from, and for Unigram when `vocab_size` can't hold the characters of the
    texts; WordPiece and BPE then make a larger vocabulary.
    """
    pipeline = build_pipeline(kind)
    first_tokens = list(SPECIAL_TOKENS)
    if kind == "wordpiece":
        texts = list(texts)
        first_tokens += _continuations(pipeline.tokenizer, texts)
    counted = _Counted(texts)
    with _clear_errors(kind, vocab_size):
        pipeline.tokenizer.train_from_iterator(counted, pipeline.trainer(vocab_size, show_progress, first_tokens), length=length)
    if not counted.seen:
        raise ValueError("no text to train the tokenizer on: the input is empty or holds blank lines only")
    finish = {"wordpiece": _with_own_special_tokens, "unigram": _with_byte_fallback}.get(kind)
    return wrap(finish(pipeline.tokenizer) if finish else pipeline.tokenizer, max_length=max_length)


def read_lines(paths: Iterable[Path]) -> Iterator[str]:
    """The lines of UTF-8 files, in order, without their newline. Raises ValueError, with file and line, for what is not UTF-8."""
    for path in paths:
        with path.open("rb") as lines:
            yield from decoded_lines(lines, name=str(path))


def decoded_lines(lines: Iterable[bytes], *, name: str) -> Iterator[str]:
    """Lines of UTF-8 as text, without their newline. `name` is what an error calls their source."""
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}, line {number}: not UTF-8 ({error.reason}); convert it first") from error


def wrap(tokenizer: Tokenizer, *, max_length: int) -> PreTrainedTokenizerFast:
    """The trained pipeline as a transformers tokenizer; `save_pretrained(folder)` writes what `AutoTokenizer` reads."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token=PAD,
        unk_token=UNK,
        cls_token=CLS,
        sep_token=SEP,
        mask_token=MASK,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@contextmanager
def _clear_errors(kind: Kind, vocab_size: int) -> Iterator[None]:
    """ValueError for a vocabulary without room for the alphabet, of which the trainers' errors say little."""
    try:
        yield
    except Exception as error:  # the library raises no narrower type
        if not isinstance(error, OverflowError) and "not large enough" not in str(error):
            raise
        reason = f"its special tokens, {len(BYTE_TOKENS)} byte tokens and every character of the texts need more"
        raise ValueError(f"vocab_size {vocab_size} is too small for {kind}: {reason}") from error


class _Counted:
    """Passes the non-blank texts on and counts them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = texts
        self.seen = 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            if text.strip():
                self.seen += 1
                yield text


def _continuations(tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
    """The characters that go on a word, as WordPiece writes them, sorted.

    The Rust trainer gives them ids as it meets them in a hash map, whose order changes from run to run, and breaks ties between
    equally frequent pairs by id. Named to it beforehand, their ids are fixed.
    """
    found: set[str] = set()
    for text in texts:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)):
            found.update(word[1:])
    return [f"##{character}" for character in sorted(found)]


def _with_own_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Makes the `_continuations`, which were special tokens while it trained, ordinary entries of the vocabulary."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL_TOKENS]
    return Tokenizer.from_str(json.dumps(state))


def _with_byte_fallback(tokenizer: Tokenizer) -> Tokenizer:
    """Appends the 256 byte tokens, which the trainer cannot learn, and turns the fallback on.

    Scores are rounded and sorted anew, since threads add them up in any order.
    """
    state = json.loads(tokenizer.to_str())
    special, learnt = state["model"]["vocab"][: len(SPECIAL_TOKENS)], state["model"]["vocab"][len(SPECIAL_TOKENS) :]
    learnt = sorted(([token, round(score, SCORE_DIGITS)] for token, score in learnt), key=lambda entry: (-entry[1], entry[0]))
    floor = min(score for _, score in learnt) - BYTE_TOKEN_PENALTY
    state["model"]["vocab"] = [*special, *learnt, *([token, floor] for token in BYTE_TOKENS)]
    state["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(state))
