"""Which encoder a tokenizer gets."""

from typing import Literal

from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from service.text.control import control_tokens, reading_as_text
from service.text.encoder import TextEncoder
from service.text.plain import PlainEncoder

Encoder = TextEncoder | PlainEncoder
# The Rust object with the shorter way for ASCII, the Rust object alone, or the tokenizer's own call: the first that is right.
Form = Literal["ascii apart", "rust", "plain"]
FORMS: tuple[Form, ...] = ("ascii apart", "rust", "plain")
# Control tokens that a text spells: read as text, or, as transformers by default, as the tokens.
SpecialTokens = Literal["split", "keep"]


def encoder_of(
    tokenizer: PreTrainedTokenizerBase, *, max_length: int, special_tokens: SpecialTokens = "split", form: Form = "ascii apart"
) -> Encoder:
    """An encoder of that form, the plain one where there is no Rust object."""
    control = control_tokens(tokenizer) if special_tokens == "split" else frozenset()
    if form == "plain" or not isinstance(tokenizer, PreTrainedTokenizerFast):
        return PlainEncoder(tokenizer, max_length=max_length, control=control)
    pipeline = tokenizer.backend_tokenizer
    return TextEncoder(
        reading_as_text(pipeline, control) if control else pipeline,
        max_length=max_length,
        has_types="token_type_ids" in tokenizer.model_input_names,
        from_left=tokenizer.truncation_side == "left",
        ascii_apart=form == "ascii apart",
    )
