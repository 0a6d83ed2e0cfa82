"""A tokenizer for an architecture, trained on a few sentences: of its own class where that can be, else of a fitting kind."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as SEQ_TO_SEQ
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

SENTENCES = (
    "a wonderful film, funny and moving",
    "a terrible film, boring and slow",
    "the train leaves at nine on monday, the last one at half past ten",
    "i love this phone and i love the camera",
    "i hate this phone and the poor camera",
    "the food was excellent, the service was good",
    "the food was poison, the service was bad",
    "not good at all, not even funny 😍 😡",
    "what a day 😍 what a wonderful day",
    "the book is on the table in the town",
    "Nothing that I have read this year comes near it: quick, warm, and wise!",
    "Why would anybody pay for this? It broke after two weeks, and nobody answers.",
)
VOCABULARY = 400
# By themselves these number the padding token otherwise than checkpoints of their kind do, who count positions from it.
FIRST_TOKENS = {"RobertaTokenizer": ("<s>", "<pad>", "</s>", "<unk>", "<mask>")}
# These take words with boxes, markup or tables.
NOT_FOR_TEXT = ("LayoutLMv2Tokenizer", "LayoutLMv3Tokenizer", "MarkupLMTokenizer", "TapasTokenizer")


# Architectures whose class transformers does not name. RemBERT's takes [CLS] for the unknown token once it is trained anew.
NOT_NAMED = {"t5gemma2": "GemmaTokenizer", "mistral4": "GPT2Tokenizer", "rembert": "AlbertTokenizer"}


def tokenizer_for(model_type: str, *, max_length: int) -> tuple[PreTrainedTokenizerBase, str]:
    """A tokenizer, and what it is: the architecture's own class, or the generic kind with the reason in brackets."""
    name = NOT_NAMED.get(model_type) or TOKENIZER_MAPPING_NAMES.get(model_type)
    reason = ""
    if name in NOT_FOR_TEXT:
        reason = f" (not {name}, which takes more than text)"
    elif name is not None and name != "TokenizersBackend":
        try:
            tokenizer = own_tokenizer(name)
            tokenizer.model_max_length = max_length
            return tokenizer, name
        except ImportError as error:
            reason = f" (not {name}: {str(error).strip().partition('. ')[0].splitlines()[0]})"
    kind, train = generic_kind(model_type)
    tokenizer = train()
    tokenizer.model_max_length = max_length
    return tokenizer, kind + reason


def own_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Of the class of that name. ImportError where a package of it is missing."""
    kind = tokenizer_class_from_name(name)
    given = inspect.signature(kind.__init__).parameters  # ImportError where the class stands for a missing package
    if "vocab_file" in given and given["vocab_file"].default is inspect.Parameter.empty:
        return from_files(kind)
    first = FIRST_TOKENS.get(name)
    empty = kind() if first is None else kind(vocab={token: index for index, token in enumerate(first)}, merges=[])
    if not hasattr(empty, "train_new_from_iterator"):
        return empty  # it knows characters or bytes, and has nothing to learn
    return empty.train_new_from_iterator(SENTENCES * 4, VOCABULARY, show_progress=False)


def from_files(kind: type[PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    """Of a class that is written in Python and reads its vocabulary from files."""
    with TemporaryDirectory() as folder:
        files = {}
        for argument, file in kind.vocab_files_names.items():
            if argument in inspect.signature(kind.__init__).parameters:
                files[argument] = str(Path(folder, file))
                Path(files[argument]).write_text(FILES[file](), encoding="utf-8")
        return kind(**files)


def generic_kind(model_type: str) -> tuple[str, Callable[[], PreTrainedTokenizerBase]]:
    """What most people train for such an architecture."""
    if model_type in SEQ_TO_SEQ and model_type not in MASKED:
        return "Unigram with </s>", unigram
    if model_type in CAUSAL and model_type not in MASKED:
        return "byte-level BPE, no padding token", byte_level
    return "WordPiece", word_pieces


def word_pieces() -> PreTrainedTokenizerBase:
    """BERT's kind."""
    return own_tokenizer("BertTokenizer")


def byte_level() -> PreTrainedTokenizerBase:
    """That of decoders: nothing is put around a text, and there is no padding token."""
    return PreTrainedTokenizerFast(tokenizer_object=own_tokenizer("GPT2Tokenizer").backend_tokenizer, eos_token="<|endoftext|>")


def unigram() -> PreTrainedTokenizerBase:
    """T5's kind, which ends a text with </s>."""
    return own_tokenizer("T5Tokenizer")


def _bpe_with_word_ends() -> Tokenizer:
    """Sennrich's BPE, as CTRL and XLM have it: the last piece of a word ends in </w>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    return tokenizer


def _vocab_json() -> str:
    """CTRL writes a piece that goes on with @@ behind it, and none behind the last."""
    return json.dumps({_ctrl(piece): index for piece, index in _bpe_with_word_ends().get_vocab().items()})


def _ctrl(piece: str) -> str:
    special = piece.startswith("<") and not piece.endswith("</w>")
    return piece if special else piece.removesuffix("</w>") if piece.endswith("</w>") else piece + "@@"


def _merges_txt() -> str:
    merges = json.loads(_bpe_with_word_ends().to_str())["model"]["merges"]
    return "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges)


def _vocab_txt() -> str:
    """BERT's special tokens, ESM's, and characters."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<cls>", "<pad>", "<eos>", "<unk>", "<mask>"]
    characters = sorted({character for sentence in SENTENCES for character in sentence.lower()} - {" "})
    words = sorted({word for sentence in SENTENCES for word in sentence.lower().split() if word.isalpha()} - set(characters))
    return "\n".join([*specials, *characters, *words, *(f"##{character}" for character in characters)])


def _numbers_of_words() -> str:
    """A number for each line of `_vocab_txt`, as RoCBert has them for shapes and sounds."""
    return json.dumps({word: index for index, word in enumerate(_vocab_txt().split("\n"))})


FILES: dict[str, Callable[[], str]] = {
    "vocab.json": _vocab_json,
    "merges.txt": _merges_txt,
    "vocab.txt": _vocab_txt,
    "word_shape.json": _numbers_of_words,
    "word_pronunciation.json": _numbers_of_words,
}
