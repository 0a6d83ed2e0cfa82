"""What is said of a text that can't be scored."""


class TextRefused(ValueError):
    """The message names the limit and the value. `is_unreadable`: the tokenizer could not read the text at all."""

    def __init__(self, message: str, *, is_unreadable: bool = False) -> None:
        super().__init__(message)
        self.is_unreadable = is_unreadable


def unreadable() -> TextRefused:
    return TextRefused("a text could not be tokenized; send valid Unicode", is_unreadable=True)


def too_long(
    index: int, *, length: int, max_length: int, instead: str = 'send truncate: true, or overflow: "window"'
) -> TextRefused:
    return TextRefused(
        f"inputs[{index}]: {length} tokens exceed the model's limit of {max_length}; shorten the text or {instead}"
    )


def without_tokens(where: str) -> TextRefused:
    return TextRefused(f"{where}: no token is left of this text; send one that holds words")
