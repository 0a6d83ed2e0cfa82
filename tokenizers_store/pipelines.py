"""The three tokenizer pipelines: normalizer, pre-tokenizer, model, post-processor, decoder.

Every pipeline shares one normalizer, written for short user text. It maps a URL to `http`, a user mention to `@`, typographic
quotes to ASCII, drops emoji modifiers, and lower-cases:

    >>> normalizer().normalize_str("Café by @ann: 👍🏽 https://t.co/x1 ‘LOVE’")
    "cafe by @: 👍 http 'love'"

Chinese has no spaces, and a sentence must not be one word. WordPiece loses a whole word where it does not know a piece of it, so
for WordPiece each ideograph is a word. BPE and Unigram learn pieces inside a run of ideographs.

What a vocabulary does not know becomes `[UNK]` in WordPiece; BPE is byte-level and Unigram falls back to bytes, so they have no
unknown characters.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

Kind = Literal["wordpiece", "bpe", "unigram"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNK, CLS, SEP, MASK)

# Emoji of one code point: the first and the last of each range.
EMOJI_RANGES = (
    ("\U0001f300", "\U0001f3fa"),
    ("\U0001f400", "\U0001f64f"),
    ("\U0001f680", "\U0001f6ff"),
    ("\U0001f900", "\U0001f9ff"),
    ("\U0001fa70", "\U0001faff"),
    ("\u2600", "\u27bf"),
)
EMOJI = f"[{''.join(f'{first}-{last}' for first, last in EMOJI_RANGES)}]"
# A skin tone, variation selector or joiner only varies the picture, so the normalizer drops it.
EMOJI_MODIFIER = "[\ufe0e\ufe0f\u200d\U0001f3fb-\U0001f3ff]"
# The scripts that are written without spaces: Chinese, and Japanese with its two.
IDEOGRAPHS = r"[\p{Han}\p{Hiragana}\p{Katakana}ー]"
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))


@dataclass(frozen=True)
class Pipeline:
    """An untrained tokenizer and the maker of its trainer: `trainer(vocab_size, show_progress, first_tokens)`. The vocabulary
    begins with `first_tokens`, and these with the special tokens."""

    tokenizer: Tokenizer
    trainer: Callable[[int, bool, Sequence[str]], trainers.Trainer]


def normalizer(*, ideographs_apart: bool = True) -> normalizers.Normalizer:
    """The shared normalizer. It keeps alignment, so offsets point into the raw text.

    `ideographs_apart` surrounds each Chinese character with spaces, so that it is a word.
    """
    return normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"(https?://|www\.)[!-~]+"), "http"),  # ASCII: in Chinese the next word follows at once
            normalizers.Replace(Regex(r"@\w+"), "@"),
            normalizers.Replace(Regex(EMOJI_MODIFIER), ""),
            normalizers.Replace(Regex("[\u2018\u2019\u00b4`]"), "'"),  # before NFKC, which would split U+00B4
            normalizers.Replace(Regex("[\u201c\u201d]"), '"'),
            normalizers.NFKC(),
            normalizers.BertNormalizer(
                clean_text=True, handle_chinese_chars=ideographs_apart, strip_accents=True, lowercase=True
            ),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )


def build_pipeline(kind: Kind) -> Pipeline:
    """The untrained pipeline of `kind`; ValueError names the kinds there are."""
    builders = {"wordpiece": _wordpiece, "bpe": _bpe, "unigram": _unigram}
    if kind not in builders:
        raise ValueError(f"unknown tokenizer kind {kind!r}; choose one of {', '.join(builders)}")
    pipeline = builders[kind]()
    pipeline.tokenizer.normalizer = normalizer(ideographs_apart=kind == "wordpiece")
    pipeline.tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    pipeline.tokenizer.post_processor = _single_and_pair_template()
    return pipeline


def emoji_alphabet() -> list[str]:
    """Every emoji of `EMOJI_RANGES` that Unicode names."""
    points = (chr(point) for first, last in EMOJI_RANGES for point in range(ord(first), ord(last) + 1))
    return [point for point in points if unicodedata.name(point, "")]


def _isolated_emoji() -> pre_tokenizers.PreTokenizer:
    """Makes a row of emoji a row of words, so each is looked up by itself; a space before one stays with it."""
    return pre_tokenizers.Split(Regex(" ?" + EMOJI), behavior="isolated")


def _wordpiece() -> Pipeline:
    tokenizer = Tokenizer(models.WordPiece(vocab={}, unk_token=UNK, max_input_chars_per_word=100))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), _isolated_emoji()])
    tokenizer.decoder = decoders.WordPiece(prefix="##")

    def trainer(vocab_size: int, show_progress: bool, first_tokens: Sequence[str]) -> trainers.Trainer:
        return trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            special_tokens=list(first_tokens),
            initial_alphabet=emoji_alphabet(),
            continuing_subword_prefix="##",
            min_frequency=2,
            show_progress=show_progress,
        )

    return Pipeline(tokenizer, trainer)


def _bpe() -> Pipeline:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([_isolated_emoji(), pre_tokenizers.ByteLevel(add_prefix_space=True)])
    tokenizer.decoder = decoders.ByteLevel()

    def trainer(vocab_size: int, show_progress: bool, first_tokens: Sequence[str]) -> trainers.Trainer:
        return trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(first_tokens),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            min_frequency=2,
            show_progress=show_progress,
        )

    return Pipeline(tokenizer, trainer)


def _unigram() -> Pipeline:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="first"),
            pre_tokenizers.Split(Regex("\u2581?" + EMOJI), behavior="isolated"),
            pre_tokenizers.Split(Regex(IDEOGRAPHS + "+"), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])

    def trainer(vocab_size: int, show_progress: bool, first_tokens: Sequence[str]) -> trainers.Trainer:
        return trainers.UnigramTrainer(
            vocab_size=vocab_size - len(BYTE_TOKENS),  # `training` appends the byte tokens
            special_tokens=list(first_tokens),
            unk_token=UNK,
            show_progress=show_progress,
        )

    return Pipeline(tokenizer, trainer)


def _single_and_pair_template() -> processors.PostProcessor:
    ids = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    return processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, ids[CLS]), (SEP, ids[SEP])],
    )
