"""The part of a tokenizer's pipeline that a text of ASCII can meet.

Most texts in English are ASCII from end to end. Unicode's normal forms, accents, emoji and curly quotes are nothing to them, and
the steps that look for those take a fifth of a tokenization.
"""

import json
import re
from typing import Any

from tokenizers import Tokenizer

# One class of characters, perhaps with a space before it, or what stands for one; no escapes, no classes within.
ONE_CLASS = re.compile(r"(?:[ \u2581]\?)?\[([^\[\]\\^]+)\]")
Step = dict[str, Any]


def for_ascii(tokenizer: Tokenizer) -> Tokenizer:
    """One that gives every text of ASCII the same tokens; with nothing left out where that could not be told."""
    pipeline = json.loads(tokenizer.to_str())
    if all(token["content"].isascii() for token in pipeline["added_tokens"]):
        pipeline["normalizer"] = _kept(pipeline["normalizer"], "normalizers")
        pipeline["pre_tokenizer"] = _kept(pipeline["pre_tokenizer"], "pretokenizers")
    return Tokenizer.from_str(json.dumps(pipeline))


def _kept(step: Step | None, members: str) -> Step | None:
    """The step, or None. `members`: what a sequence calls its steps."""
    if step is None or _is_idle(step):
        return None
    if step["type"] == "Sequence":
        return step | {members: [kept for member in step[members] if (kept := _kept(member, members)) is not None]}
    if step["type"] == "BertNormalizer":
        return step | {"handle_chinese_chars": False, "strip_accents": False}
    return step


def _is_idle(step: Step) -> bool:
    """It leaves every text of ASCII as it is."""
    match step:
        case {"type": "NFC" | "NFD" | "NFKC" | "NFKD" | "StripAccents"}:
            return True
        case {"type": "Replace" | "Split", "pattern": {"String": text}}:
            return not step.get("invert") and not text.isascii()
        case {"type": "Replace" | "Split", "pattern": {"Regex": pattern}}:
            return not step.get("invert") and needs_other_characters(pattern)
    return False


def needs_other_characters(pattern: str) -> bool:
    """Every match of the regular expression holds a character beyond ASCII. False where that is not plain to see.

    >>> [needs_other_characters(pattern) for pattern in (" ?[☀-➿😀]", "[“”]", "[’']", "[-’]", "’?")]
    [True, True, False, False, False]
    """
    found = ONE_CLASS.fullmatch(pattern)
    if found is None or found[1].startswith("-") or found[1].endswith("-"):
        return False
    return all(not character.isascii() for character in found[1].replace("-", ""))
