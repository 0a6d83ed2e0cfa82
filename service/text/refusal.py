"""What is said of a text that can't be scored."""


class TextRefused(ValueError):
    """The message names the limit and the value. `is_unreadable`: the tokenizer could not read the text at all."""

    def __init__(self, message: str, *, is_unreadable: bool = False) -> None:
        super().__init__(message)
        self.is_unreadable = is_unreadable


def unreadable() -> TextRefused:
    return TextRefused("a text could not be tokenized; send valid Unicode", is_unreadable=True)
