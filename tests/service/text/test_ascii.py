"""The shorter pipeline gives a text of ASCII the same tokens as the whole one."""

import json
import random
from typing import Any

import pytest
from tokenizers import Tokenizer

from load_tests.servers import ROOT
from load_tests.texts import user_texts
from service.text.ascii import for_ascii

STORE = ROOT / "tokenizers_store"
SHIPPED = sorted(path.parent.name for path in STORE.glob("*/tokenizer.json"))
ODD = [
    "",
    " ",
    "\t\n",
    "\x00\x1f",
    "a@b @c @",
    "https://x.y/z www.a",
    "` ' \"",
    "A" * 300,
    "[CLS] x [MASK]",
    "_ _",
    "\x7f",
    "I'M  NOT",
]


def random_texts(count: int) -> list[str]:
    generator = random.Random(0)
    ranges = [(0, 128), (32, 127), (32, 33), (97, 123)]
    return [
        "".join(chr(generator.randrange(*generator.choice(ranges))) for _ in range(generator.randrange(1, 60)))
        for _ in range(count)
    ]


def pipeline(name: str) -> dict[str, Any]:
    return json.loads((STORE / name / "tokenizer.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_tokenizers_give_the_same_tokens(name: str) -> None:
    whole = Tokenizer.from_file(str(STORE / name / "tokenizer.json"))
    short = for_ascii(whole)
    texts = [text for text in [*user_texts(1000), *ODD, *random_texts(2000)] if text.isascii()]
    assert len(texts) > 2000
    for text in texts:
        assert short.encode(text).ids == whole.encode(text).ids, repr(text)
    assert len(short.to_str()) < len(whole.to_str())


@pytest.mark.parametrize("step", ["NFKC", "Nmt"])
def test_what_ascii_can_meet_stays(step: str) -> None:
    found = pipeline("sentiment-bert")
    found["normalizer"] = {"type": "Sequence", "normalizers": [{"type": step}, {"type": "Lowercase"}]}
    short = json.loads(for_ascii(Tokenizer.from_str(json.dumps(found))).to_str())
    assert [one["type"] for one in short["normalizer"]["normalizers"]] == (
        ["Lowercase"] if step == "NFKC" else [step, "Lowercase"]
    )


@pytest.mark.parametrize("pattern", [{"Regex": "[’']"}, {"String": "-"}, {"Regex": "(☀|x)"}, {"Regex": "[^☀]"}], ids=str)
def test_a_pattern_that_may_match_ascii_stays(pattern: dict[str, str]) -> None:
    found = pipeline("sentiment-bert")
    found["normalizer"] = {"type": "Replace", "pattern": pattern, "content": "z"}
    short = json.loads(for_ascii(Tokenizer.from_str(json.dumps(found))).to_str())
    assert short["normalizer"] == found["normalizer"]


def test_nothing_is_left_out_where_a_token_of_other_characters_may_turn_into_ascii() -> None:
    whole = Tokenizer.from_file(str(STORE / "sentiment-bert" / "tokenizer.json"))
    whole.add_tokens(["ｗｏｗ"])
    assert for_ascii(whole).to_str() == whole.to_str()
    assert for_ascii(whole).encode("wow").ids == whole.encode("wow").ids


CIRCLED = {"type": "Replace", "pattern": {"String": "a"}, "content": "①"}
ACCENTED = {"type": "Prepend", "prepend": "é"}
BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": True, "lowercase": True}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split_at(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replaced(pattern: dict[str, str]) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": "b"}


@pytest.mark.parametrize(
    ("normalizers", "pre_tokenizers"),
    [
        ([CIRCLED, {"type": "NFKC"}], []),
        ([CIRCLED, replaced({"Regex": "[①-⑨]"})], []),
        ([CIRCLED, replaced({"String": "①"})], []),
        ([CIRCLED], [split_at("[①-⑨]")]),
        ([ACCENTED, {"type": "StripAccents"}], []),
        ([ACCENTED, BERT], []),
        ([CIRCLED | {"content": "É"}, {"type": "Lowercase"}, replaced({"String": "é"})], []),
        ([], [METASPACE, split_at("[▀-▟]")]),
        ([], [BYTES, split_at("[Ā-Ģ]")]),
    ],
    ids=lambda steps: "-".join(str(step["type"]) for step in steps),
)
def test_a_step_stays_that_meets_what_an_earlier_one_brought_in(
    normalizers: list[dict[str, Any]], pre_tokenizers: list[dict[str, Any]]
) -> None:
    found = pipeline("sentiment-bert")
    found["normalizer"] = {"type": "Sequence", "normalizers": normalizers}
    found["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": pre_tokenizers}
    whole = Tokenizer.from_str(json.dumps(found))
    short = for_ascii(whole)
    assert short.to_str() == whole.to_str()


def test_the_emoji_step_after_a_metaspace_is_left_out() -> None:
    names = [name for name in SHIPPED if "Metaspace" in json.dumps(pipeline(name)["pre_tokenizer"])]
    assert names
    for name in names:
        short = json.loads(for_ascii(Tokenizer.from_file(str(STORE / name / "tokenizer.json"))).to_str())
        assert all("☀" not in json.dumps(step, ensure_ascii=False) for step in short["pre_tokenizer"]["pretokenizers"])
