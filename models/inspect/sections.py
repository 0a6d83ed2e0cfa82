"""The sections of a report, and all of them over one checkpoint."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.inspect.attention_maps import TEXT, attention
from models.inspect.config_lint import config
from models.inspect.gradients import gradients
from models.inspect.initialisation import initialisation
from models.inspect.parameters import memory, parameters
from models.inspect.report import Section
from models.inspect.subject import TEXTS, Subject, load_subject
from models.inspect.summary import summary
from models.inspect.throughput import throughput


@dataclass(frozen=True)
class Options:
    """`depth`: levels of modules; `text`: whose attention is shown; `texts` and `labels`: the batch of the gradients; `pictures`:
    a folder to draw into."""

    depth: int = 3
    text: str = TEXT
    texts: Sequence[str] = TEXTS
    labels: Sequence[int] | None = None
    pictures: Path | None = None

    def picture(self, name: str) -> Path | None:
        return None if self.pictures is None else self.pictures / f"{name}.png"


# What the forward of an architecture may raise on plain padded batches.
FAULTS_OF_MODELS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)
SECTIONS: Mapping[str, Callable[[Subject, Options], Section]] = {
    "config": lambda subject, _: config(subject),
    "parameters": lambda subject, options: parameters(subject, depth=options.depth),
    "memory": lambda subject, _: memory(subject),
    "summary": lambda subject, options: summary(subject, depth=options.depth),
    "initialisation": lambda subject, _: initialisation(subject),
    "gradients": lambda subject, options: gradients(subject, texts=options.texts, labels=options.labels),
    "attention": lambda subject, options: attention(subject, text=options.text, picture=options.picture("attention")),
    "throughput": lambda subject, _: throughput(subject),
}


def inspect_checkpoint(
    folder: Path, *, sections: Sequence[str] = tuple(SECTIONS), options: Options | None = None
) -> list[Section]:
    """What the command prints, as values. The architecture is registered already; raises what `load_subject` raises."""
    return list(reports(load_subject(folder), sections, options or Options()))


def reports(subject: Subject, sections: Sequence[str], options: Options) -> Iterator[Section]:
    """One after another, as they are done. A section that the model can't take says so in a sentence, and the others go on."""
    for name in sections:
        try:
            yield SECTIONS[name](subject, options)
        except FAULTS_OF_MODELS as error:
            why = (str(error).strip().splitlines() or ["no reason given"])[0]
            yield Section(name, notes=[f"Not possible with {type(subject.model).__name__}: {type(error).__name__}: {why}"])
