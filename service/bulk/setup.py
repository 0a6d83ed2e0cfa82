"""What a run is asked to do, as every process of it knows it."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from service.served.catalog import ServedModel, load_tokenizer, register_all
from service.settings import Settings
from service.text import encoders
from service.text.encoders import Encoder
from service.text.labelling import Function, function_for
from service.text.proof import proven_form

Overflow = Literal["truncate", "window", "error"]


class BadInput(ValueError):
    """What was asked for can't be done; the message says why in a sentence, for the operator."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides the output, the model apart. `top_k`: how many scores of a text are written in a column `scores`; 0: no such
    column, None: all. `rows_per_file`: of the output; also how many rows are worked on as one."""

    text_column: str = "text"
    text_pair_column: str | None = None
    overflow: Overflow = "truncate"
    truncate_left: bool = False
    function: Function | None = None
    top_k: int | None = 0
    prefix: str = ""
    limit: int | None = None
    rows_per_file: int = 32_768

    @property
    def has_scores(self) -> bool:
        """Whether more than the best label is written."""
        return self.top_k != 0

    @property
    def ranks(self) -> int | None:
        """How many labels of a text are ranked; None: all."""
        return self.top_k if self.has_scores else 1

    @property
    def text_columns(self) -> list[str]:
        """The columns that are read for the model."""
        return [self.text_column, *([self.text_pair_column] if self.text_pair_column is not None else [])]

    @property
    def added_columns(self) -> list[str]:
        """The columns that are written beside those of the input."""
        return [f"{self.prefix}{name}" for name in ("label", "score", *(["scores"] if self.has_scores else []), "error")]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A run: one model of the settings, and what is done with it. Hashable, so that what a process loads for it can be kept."""

    settings: Settings
    served: ServedModel
    options: Options

    @property
    def function(self) -> Function:
        """Makes scores of logits."""
        return self.options.function or function_for(self.served.problem_type, self.served.labels)


@cache
def encoder_of(setup: Setup) -> Encoder:
    """The encoder of the service's HTTP processes, proven as there; loaded once a process."""
    register_all(setup.settings.import_modules)
    served, special = setup.served, setup.settings.special_tokens_in_texts
    tokenizer = load_tokenizer(served.tokenizer_path)
    form = proven_form(tokenizer, name=served.name, max_length=served.max_length, special_tokens=special)
    return encoders.encoder_of(tokenizer, max_length=served.max_length, special_tokens=special, form=form)
