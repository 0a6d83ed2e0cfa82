"""`python -m models.add_tokens CHECKPOINT --tokens WORD ... --to FOLDER`: a trained classifier with a larger vocabulary.

A word that the tokenizer cuts into pieces (a brand, slang, a ticker) becomes one token. Its embedding is the mean of the pieces'
embeddings, from which it can be trained on. `--special` adds markers such as "[USER]", which no rule of the tokenizer touches.
The new folder holds a tokenizer of its own, and the service serves it as it is.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from models.int8 import RANGES_FILE, load_ranges, save_ranges, write_ranges
from models.loading import load_classifier, tokenizer_folder
from models.registration import register

# In a script with spaces a new word is found as a whole word only, so that "ape" does not cut "paper". Chinese and Japanese have
# no spaces to say where a word ends.
SPACED_WORD = re.compile(r"(?=\w)[^\u3040-\u30ff\u3400-\u9fff]*(?<=\w)")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the folder is written; 2 when an argument is wrong, which is said in one sentence."""
    options = parser().parse_args(arguments)
    disable_progress_bar()
    try:
        register(options.import_module)
        if options.to.exists() and any(options.to.iterdir()):
            raise ValueError(f"--to {options.to}: the folder is not empty")
        model = load_classifier(options.checkpoint)
        tokenizer = AutoTokenizer.from_pretrained(
            options.tokenizer or tokenizer_folder(options.checkpoint, model), trust_remote_code=False
        )
        added = add_tokens(model, tokenizer, options.tokens, special=options.special)
        texts = None if options.texts is None else options.texts.read_text(encoding="utf-8").splitlines()
        save(model, tokenizer, options.to, checkpoint=options.checkpoint, added=added, texts=texts)
    except (ValueError, OSError, ImportError) as error:
        print(f"models.add_tokens: {error}", file=sys.stderr)
        return 2
    for token, pieces in added.items():
        print(f"{tokenizer.convert_tokens_to_ids(token):>7}  {token}  from {' '.join(pieces)}")
    for token in dict.fromkeys(options.tokens):
        if token not in added:
            print(f"{token!r} is one token already")
    print(f"{options.to}: {len(tokenizer):,} tokens")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m models.add_tokens", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("checkpoint", type=Path, help="a checkpoint folder; it stays as it is")
    result.add_argument("--tokens", nargs="+", required=True, metavar="TOKEN", help="what is to be one token")
    result.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where to write the new checkpoint")
    result.add_argument("--special", action="store_true", help="markers: found before the text is normalized, left out by decode")
    result.add_argument(
        "--texts",
        type=Path,
        help="UTF-8, a text a line: observe int8 ranges on these; otherwise the old ones come along",
    )
    result.add_argument("--tokenizer", type=Path, help="its folder, where it is not the one that the checkpoint names")
    result.add_argument("--import-module", action="append", default=[], help="a module that registers the architecture")
    return result


def add_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str], *, special: bool = False
) -> dict[str, list[str]]:
    """Adds to both, in place, those of `tokens` that the tokenizer lacks. Returns each one's pieces, whose mean its embedding is.

    A token without pieces that mean anything gets the mean of all rows. Raises ValueError for a blank token, for one that the
    tokenizer would never find, and where nothing is new.
    """
    pieces = new_tokens(tokenizer, tokens, special=special)
    old_VD = model.get_input_embeddings().weight.detach().clone()
    tokenizer.add_tokens([as_added(token, special=special) for token in pieces], special_tokens=special)
    for token in pieces:
        if tokenizer(token, add_special_tokens=False)["input_ids"] != [tokenizer.convert_tokens_to_ids(token)]:
            raise ValueError(f"{token!r} can't be found in a text: the tokenizer turns it into {tokenizer.tokenize(token)}")
    model.resize_token_embeddings(max(len(tokenizer), len(old_VD)), mean_resizing=False)
    table_VD = model.get_input_embeddings().weight.data
    for token, ids in pieces.items():
        rows_ND = old_VD[ids] if ids else old_VD
        table_VD[tokenizer.convert_tokens_to_ids(token)] = rows_ND.float().mean(dim=0).to(table_VD.dtype)
    return {token: tokenizer.convert_ids_to_tokens(ids) or ["all rows"] for token, ids in pieces.items()}


def new_tokens(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str], *, special: bool) -> dict[str, list[int]]:
    """The pieces of each of `tokens` that is not one token yet. Of words that normalization makes equal ("Brexit", "BREXIT") the
    first counts."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    found, seen = {}, set(tokenizer.get_vocab())
    for token in dict.fromkeys(tokens):
        pieces = old_pieces(tokenizer, token)
        form = token if special or normalizer is None else normalizer.normalize_str(token)
        is_one = not special and len(pieces) == 1 and pieces != [tokenizer.unk_token_id]
        if not (is_one or seen & {token, form}):
            found[token] = [index for index in pieces if index != tokenizer.unk_token_id]
            seen.add(form)
    if not found:
        raise ValueError(f"nothing to add: the tokenizer makes one token of {', '.join(map(repr, tokens))} already")
    return found


def old_pieces(tokenizer: PreTrainedTokenizerFast, token: str) -> list[int]:
    """What the tokenizer makes of `token` now, without the pieces that stand for a space alone."""
    if not token.strip():
        raise ValueError(f"{token!r} is blank; a token needs a character")
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    return [index for index in ids if tokenizer.decode([index]).strip()]


def as_added(token: str, *, special: bool) -> AddedToken:
    """How the tokenizer looks for `token`: for a marker in the raw text, for anything else in the normalized text. A word
    includes the space before it, which would otherwise be a token of its own."""
    alone = not special and SPACED_WORD.fullmatch(token) is not None
    return AddedToken(token, single_word=alone, lstrip=alone, normalized=not special, special=special)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    *,
    checkpoint: Path,
    added: dict[str, list[str]],
    texts: Sequence[str] | None,
) -> None:
    """Writes weights, tokenizer and card, and int8 ranges where `checkpoint` has some or `texts` are given.

    A mean of old rows lies within what the first layer has seen, so the old ranges hold. They are written again, with the
    fingerprint of the new weights.
    """
    ranges = load_ranges(checkpoint) if texts is None and (checkpoint / RANGES_FILE).is_file() else None
    if hasattr(model.config, "tokenizer_name"):
        model.config.tokenizer_name = None  # it lies beside the weights now
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if (checkpoint / "README.md").is_file():
        card = (checkpoint / "README.md").read_text(encoding="utf-8").rstrip()
        words = ", ".join(f"`{token}`" for token in added)
        note = f"## Added tokens\n\nAdded to the vocabulary afterwards, each embedding the mean of its pieces': {words}.\n"
        (folder / "README.md").write_text(f"{card}\n\n{note}", encoding="utf-8")
    if ranges is not None:
        save_ranges(folder, ranges)
    if texts is not None:
        write_ranges(folder, load_classifier(folder).float(), tokenizer, [text for text in texts if text.strip()])


if __name__ == "__main__":
    sys.exit(main())
