"""Small tokenizers of the kinds that people have."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

WORDS = ["the", "film", "was", "good", "bad", "and", "wow", *"abcdefghijklmnopqrstuvwxyz<>/[]|_!?.,'", "user", "cls", "sep"]

TYPED = ["input_ids", "token_type_ids", "attention_mask"]


def with_template(model: Tokenizer, single: str, pair: str, *tokens: str) -> Tokenizer:
    model.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, model.token_to_id(token)) for token in tokens]
    )
    return model


def word_piece(**options: object) -> PreTrainedTokenizerBase:
    """As BERT's: `[CLS] text [SEP]`, type 1 for a partner."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    model = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    model.normalizer = normalizers.BertNormalizer()
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    with_template(model, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", "[CLS]", "[SEP]")
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(**{"tokenizer_object": model, "model_input_names": TYPED, **names, **options})


def unigram(**options: object) -> PreTrainedTokenizerBase:
    """As XLM-R's: `<s> text </s>`, and the control tokens are pieces of the model, too."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<mask>", 0.0), ("▁", -2.0)]
    pieces += [(piece, -3.0 - place / 100) for place, word in enumerate(WORDS) for piece in dict.fromkeys((word, f"▁{word}"))]
    model = Tokenizer(models.Unigram(pieces, unk_id=3))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = decoders.Metaspace()
    with_template(model, "<s> $A </s>", "<s> $A </s> </s> $B </s>", "<s>", "</s>")
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    names |= {"unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(**{"tokenizer_object": model, **names, **options})


def word_level(**options: object) -> PreTrainedTokenizerBase:
    """Words between spaces, and nothing around a text."""
    words = ["<unk>", "<end>", *WORDS]
    model = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(**{"tokenizer_object": model, "unk_token": "<unk>", "eos_token": "<end>", **options})


def byte_bpe(**options: object) -> PreTrainedTokenizerBase:
    """As GPT-2's: bytes, one control token, nothing around a text, no types. A merge spells a control token in part."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: place for place, token in enumerate([*letters, "go", "od", "good", "Ġg", "<|", "|>", "<|end|>", "<|end"])}
    merges = [("g", "o"), ("o", "d"), ("go", "od"), ("Ġ", "g"), ("<", "|"), ("|", ">"), ("<|end", "|>")]
    model = Tokenizer(models.BPE(vocab, merges))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        **{"tokenizer_object": model, "eos_token": "<|end|>", "pad_token": "<|end|>", "model_input_names": inputs, **options}
    )


def xlnet_like(**options: object) -> PreTrainedTokenizerBase:
    """`text <sep> <cls>` with type 2 for the last, on the left where there is padding."""
    made = unigram(**{"cls_token": "<mask>", "mask_token": None, "model_input_names": TYPED, **options})
    with_template(made.backend_tokenizer, "$A </s> <mask>:2", "$A </s> $B:1 </s>:1 <mask>:2", "</s>", "<mask>")
    return made


KINDS = {kind.__name__: kind for kind in (word_piece, unigram, word_level, byte_bpe, xlnet_like)}
