"""Trains a tokenizer from files or an iterator, and saves it as a folder that `AutoTokenizer` loads."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tokenizers_store.pipelines import BYTE_TOKENS, CLS, MASK, PAD, SEP, UNK, Kind, build_pipeline

# A byte is worse than any learnt piece: its log probability lies this far below the rarest one's.
BYTE_TOKEN_PENALTY = 10.0


def train_tokenizer(
    texts: Iterable[str],
    *,
    kind: Kind,
    vocab_size: int,
    max_length: int = 512,
    length: int | None = None,
    show_progress: bool = True,
) -> PreTrainedTokenizerFast:
    """Trains on `texts`. The same texts give the same BPE tokenizer; WordPiece and Unigram the same but for ids and ties,
    which the Rust trainers order by a hash map.

    `max_length` is the model's limit in tokens, special ones included; `length` the number of texts, for the progress bar.
    Raises ValueError when there is no text to learn from.
    """
    pipeline = build_pipeline(kind)
    counted = _Counted(texts)
    pipeline.tokenizer.train_from_iterator(counted, pipeline.trainer(vocab_size, show_progress), length=length)
    if not counted.seen:
        raise ValueError("no text to train the tokenizer on: the input is empty or holds blank lines only")
    tokenizer = _with_byte_fallback(pipeline.tokenizer) if kind == "unigram" else pipeline.tokenizer
    return wrap(tokenizer, max_length=max_length)


def read_lines(paths: Iterable[Path]) -> Iterator[str]:
    """The lines of UTF-8 files, in order, without their newline."""
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            yield from (line.rstrip("\n") for line in lines)


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


def _with_byte_fallback(tokenizer: Tokenizer) -> Tokenizer:
    """Appends the 256 byte tokens, which the trainer cannot learn, and turns the fallback on."""
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    floor = min(score for _, score in vocabulary) - BYTE_TOKEN_PENALTY
    vocabulary.extend([token, floor] for token in BYTE_TOKENS)
    state["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(state))
