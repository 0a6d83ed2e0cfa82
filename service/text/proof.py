"""The encoder gives what transformers' own call gives: found out, once for each model, over some hundred texts.

`AutoTokenizer`'s call is more than its Rust object: a class may prepare texts in Python, and transformers adds settings of its
own. On our side the pipeline is shortened for ASCII, and its control tokens are renamed.
"""

import logging
import random
import string
from collections.abc import Iterator, Sequence

from transformers import BatchEncoding, PreTrainedTokenizerBase

from service.frames import id_array
from service.text.control import control_ids, control_tokens, count_around, spells
from service.text.encoder import Text, joined, joined_types
from service.text.encoders import FORMS, Encoder, Form, SpecialTokens, encoder_of
from service.text.plain import PlainEncoder
from service.text.refusal import TextRefused

log = logging.getLogger("valence.text")
SENTENCE = "The film was a wonderful surprise, funny and moving; not bad at all, I'd say."
NASTY = (
    " ", "  ", "\t", "\n", "\r\n", "\xa0", "\u2003", "\u3000", "\u200b", "\ufeff", "\u2028", "\x00", "\x01\x02",
    "\x1b[0m", "\x7f", "a\x00b", "a\xadb", "�", "\ufdd0", "\U0010ffff", "\ue000", "\u0301", "\u0301\u0301a",
    "a\u0308\u0323", "⃝", "naïve café", "nai\u0308ve cafe\u0301", "Å Å Å", "İstanbul ıI", "straße STRASSE ẞ", "ΣΑΣ ς",
    "ﬁne ﬂow ﬃ", "½ ² ① Ⅷ ㎏", "ＦＵＬＬ ｗｉｄｔｈ！", "ｶﾀｶﾅ ガ が", "한국어 한", "这部电影很好看，不错！",
    "這部電影", "映画がとても良かった", "良い 㐀 𠀀", "สว\u0e31สด\u0e35คร\u0e31บ",
    "नमस\u094dत\u0947 द\u0941निया क\u094dषि", "مرحبا بالعالم", "ש\u05b8\u05c1לו\u05b9ם עולם",
    "abc אבג 123 \u202eright\u202c", "\u200fa\u200e", "Привет, мир", "Ёлка ёлка", "Ωmega Αlpha аdmin", "ɐʇɐ", "😍",
    "😍😍😍", "good😍bad", "👩‍👩‍👧‍👦", "👍🏽 👍", "🏳️‍🌈 🇩🇪🇨🇳", "❤️ ❤ ☺︎ ☀", "#️⃣ 1️⃣",
    "‘quoted’ “double” „low“ `back´", "… – — ‐ ‑ − \xad", "a…b—c", "http://a.b/c?d=e#f",
    "see https://www.example.com/ä?x=😍 now", "www.example.org.", "me@example.com @name @ name", "#tag #标签",
    "$5 €5 £5 ¥5 5%", "1,000.50 1e-5 0x1F ١٢٣ １２３", "C++ C# .NET a/b a\\b", "don't DON'T won’t",
    "a_b __init__ _ __", "<br /><b>x</b>", "&amp; &#39; &nbsp;", "{\"a\": [1]}", "(((a)))", "!!!???...", "?!?!",
    "-- --- ->", "a  b   c    d", " leading", "trailing ", "a\nb\tc", "aaaaaaaaaaaaaaaaaaaa", "Hahahahahahaha",
    "x" * 101, "x" * 300, "ä" * 120, "好" * 120, "!" * 150, "ab " * 60, "▁ ▁a a▁", "Ġ Ġa Ċ", "##ing ## #",
    "</w> a</w>", "<0x0A> <0xE2>", "<unk> <s> </s> <pad> <mask>", "[UNK] [CLS] [SEP] [PAD] [MASK]", "<|endoftext|>",
    "<|im_start|>user", "[INST] x [/INST]", "[cls] [sep] <S> </S>",
)  # fmt: skip
RANDOM_TEXTS = 60
# How texts are cut does not depend on where, and at a limit of 8,192 the texts that exceed it would take seconds.
LIMIT = 64
VOCABULARY = 160


def proven_form(tokenizer: PreTrainedTokenizerBase, *, name: str, max_length: int, special_tokens: SpecialTokens) -> Form:
    """The first form that gives what the tokenizer's own call does. What was dropped on the way is logged."""
    for form in FORMS:
        encoder = encoder_of(tokenizer, max_length=min(max_length, LIMIT), special_tokens=special_tokens, form=form)
        if isinstance(encoder, PlainEncoder):
            break
        different = prove_encoder(tokenizer, encoder, special_tokens=special_tokens)
        if not different:
            return form
        instead = "without the shorter way for ASCII" if form == "ascii apart" else "by that call, which is slow"
        log.warning(
            "%s: %d texts of the proof have other tokens than by the tokenizer's own call, as %r; texts are encoded %s",
            *(name, len(different), different[0], instead),
        )
    return "plain"


def prove_encoder(tokenizer: PreTrainedTokenizerBase, encoder: Encoder, *, special_tokens: SpecialTokens = "split") -> list[Text]:
    """The texts, of our own, for which ids or types differ: whole, cut at the right or at the left."""
    reference = _Reference(tokenizer, max_length=encoder.max_length, special_tokens=special_tokens)
    texts = nasty_texts(tokenizer, max_length=encoder.max_length)
    return [text for text in texts if not all(reference.agrees(encoder, text, side) for side in (None, "right", "left"))]


def nasty_texts(tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> list[Text]:
    """Texts and pairs in which tokenizers are known to differ, with words of this one's vocabulary."""
    own = _of_the_vocabulary(tokenizer)
    printable = (string.printable[start : start + 12] for start in range(0, len(string.printable), 6))
    alone = [*NASTY, *printable, *_random_texts(), *own, SENTENCE, SENTENCE.upper()]
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()][:VOCABULARY]
    spelt = [text for token in added for text in (token, f"good {token} bad", f"good{token}bad", token.lower())]
    long = " ".join([SENTENCE, *own] * (1 + max_length // VOCABULARY))[: 12 * max_length]
    cut = [(long, None), (long + " 好 é", SENTENCE), (SENTENCE, long), (long, long[: len(long) // 2])]
    pairs = [*zip(alone[::7], alone[3::7], strict=False), (SENTENCE, ""), ("", SENTENCE)]
    return [*((text, None) for text in alone + spelt), *pairs, *cut]


def _of_the_vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Some of its words, eight to a text; the same again with what marks them in the vocabulary."""
    step = max(1, len(tokenizer) // VOCABULARY)
    places = [place for place in range(0, len(tokenizer), step) if place not in tokenizer.added_tokens_decoder]
    groups = [places[start : start + 8] for start in range(0, len(places), 8)]
    return [
        *(text for group in groups if (text := tokenizer.decode(group))),
        *(" ".join(map(str, tokenizer.convert_ids_to_tokens(group))) for group in groups),
    ]


def _random_texts() -> Iterator[str]:
    generator = random.Random(0)
    ranges = [(0, 128), (32, 127), (97, 123), (32, 0x2FF), (0x2000, 0x2BFF), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF)]
    for count in range(RANDOM_TEXTS):
        chosen = ranges[: 3 if count % 2 else len(ranges)]
        yield "".join(chr(generator.randrange(*generator.choice(chosen))) for _ in range(generator.randrange(1, 50)))


class _Reference:
    """transformers' own call.

    A text that spells a control token is split by transformers' option. Where that leaves a control token in the text all the
    same, or splits other tokens, too, ours need only be without control tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int, special_tokens: SpecialTokens) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.control = control_tokens(tokenizer) if special_tokens == "split" else frozenset()
        self.others = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special} - self.control
        self.control_ids = control_ids(tokenizer, self.control)
        self.around = [count_around(tokenizer, self.control_ids, partner=partner) for partner in (None, "a")]

    def agrees(self, encoder: Encoder, text: Text, side: str | None) -> bool:
        """Whole where there is no side to cut."""
        is_split = spells(self.control, *text)
        try:
            expected = self._called(text, side=side, is_split=is_split)
        except Exception:  # code of anyone's; there is nothing to be held to
            return True
        ids, types = expected["input_ids"], expected.get("token_type_ids", [])
        try:
            found = encoder.encode([text], truncate=side is not None, from_left=side == "left")
        except TextRefused:
            return not ids or (side is None and (is_split or len(ids) > self.max_length))
        if (found.ids, found.types) == (joined([ids]), joined_types([types])):
            return True
        around = self.around[bool(text[1])]
        leaks = self._count(ids) > around or self.tokenizer.unk_token_id in ids
        return is_split and (leaks or spells(self.others, *text)) and self._count(id_array(found.ids).tolist()) == around

    def _called(self, text: Text, *, side: str | None, is_split: bool) -> BatchEncoding:
        options: dict[str, object] = {"split_special_tokens": True} if is_split else {}
        if side is None:
            return self.tokenizer(*text, truncation=False, verbose=False, **options)
        own = self.tokenizer.truncation_side
        self.tokenizer.truncation_side = side
        try:
            return self.tokenizer(*text, truncation=True, max_length=self.max_length, verbose=False, **options)
        finally:
            self.tokenizer.truncation_side = own

    def _count(self, ids: Sequence[int]) -> int:
        return sum(one in self.control_ids for one in ids)
