"""Texts that spell a control token, as `good [SEP]`: a text is data, so that it must not say where a text ends.

transformers' `split_special_tokens` does not do for that. It leaves out the search for added tokens, but a Unigram or word-level
model has the same token in its vocabulary: to XLM-R's tokenizer `</s>` in a text is the control token all the same. And it splits
every special token, also those that a user added and trained. Here the control tokens, and no others, get names that no text
holds, in a copy of the pipeline. Ids stay as they are, and so do the tokens that the pipeline itself puts around a text.
"""

import secrets
from collections.abc import Collection
from typing import Any

import orjson
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

KINDS = ("cls_token", "sep_token", "bos_token", "eos_token", "pad_token", "unk_token", "mask_token")


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Its own control tokens, and what it puts around a text. One printable character is none: some pad with `!`, which texts
    hold in good faith."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    around = {str(token) for token in tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"])} & special
    named = {str(token) for kind, token in tokenizer.special_tokens_map.items() if kind in KINDS}
    return frozenset(token for token in named | around if len(token) > 1 or not token.isprintable())


def control_ids(tokenizer: PreTrainedTokenizerBase, control: Collection[str]) -> frozenset[int]:
    """Without the unknown token's: ordinary texts get that one, too."""
    return frozenset(tokenizer.convert_tokens_to_ids(list(control))) - {tokenizer.unk_token_id}


def count_around(tokenizer: PreTrainedTokenizerBase, ids: Collection[int], *, partner: str | None) -> int:
    """How many of these ids the tokenizer itself puts around a text; 0 where it takes no such text."""
    try:
        return sum(one in ids for one in tokenizer("a", partner)["input_ids"])
    except Exception:  # code of anyone's
        return 0


def spells(tokens: Collection[str], text: str, partner: str | None) -> bool:
    """One of the tokens stands in the text or its partner, in any case: a normalizer may lower it."""
    both = f"{text}\n{partner or ''}".casefold()
    return any(token.casefold() in both for token in tokens)


def reading_as_text(tokenizer: Tokenizer, control: Collection[str]) -> Tokenizer:
    """A copy that reads the control tokens in a text as any other text."""
    names = {token: secrets.token_hex(16) for token in control}
    pipeline: dict[str, Any] = orjson.loads(tokenizer.to_str())
    model = pipeline["model"]
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(token, token): place for token, place in vocab.items()}
    else:  # Unigram
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:  # converted from sentencepiece, some spell them
        model["merges"] = [merge for merge in model["merges"] if names.keys().isdisjoint((*merge, "".join(merge)))]
    for token in pipeline["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    copy = Tokenizer.from_buffer(orjson.dumps(pipeline))
    copy.encode_special_tokens = tokenizer.encode_special_tokens
    return copy
