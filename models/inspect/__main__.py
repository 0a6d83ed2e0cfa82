"""`python -m models.inspect CHECKPOINT`: what a checkpoint is made of, how healthy it looks, and why it says what it says.

Without a flag every section is printed. `--explain TEXT` prints what each token gave to the prediction for a text, alone unless
`--sections` names others. The extras `inspect` (torchinfo, matplotlib) and `explain` (Captum) bring what the sections need.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from models.inspect.config_lint import unknown_fields
from models.inspect.explanation import STEPS, explanation
from models.inspect.report import Section
from models.inspect.sections import SECTIONS, Options, reports
from models.inspect.subject import TEXTS, load_subject
from models.registration import register

EXTRAS = {"torchinfo": "inspect", "matplotlib": "inspect", "captum": "explain"}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all is printed; 2 when an argument or the checkpoint is wrong, said in one sentence after what was found."""
    options = parser().parse_args(arguments)
    disable_progress_bar()
    found: dict[str, object] = {}
    try:
        for section in run(options):
            if options.json:
                found[section.name] = section.as_json()
            else:
                print(section.as_text(), flush=True)
    except (ValueError, OSError, ImportError) as error:
        print(f"models.inspect: {reason(error)}", file=sys.stderr)
        return 2
    finally:
        if options.json:
            print(json.dumps(found, indent=2))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m models.inspect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("checkpoint", type=Path, help="a checkpoint folder")
    result.add_argument("--sections", help=f"comma-separated, of {', '.join(SECTIONS)}; all unless given")
    result.add_argument("--json", action="store_true", help="one JSON object, a field for each section")
    result.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw attention and explanation as .png files there")
    result.add_argument("--depth", type=int, default=Options.depth, help="levels of modules that are listed (default 3)")
    result.add_argument("--text", default=Options.text, help="the text whose attention is shown")
    result.add_argument("--batch", type=Path, metavar="FILE", help="`label<TAB>text` lines: the batch of the gradients")
    result.add_argument("--explain", metavar="TEXT", help="explain the prediction for this text")
    result.add_argument("--label", help="with --explain: explain this label's score instead of the best one's")
    result.add_argument("--steps", type=int, default=STEPS, help=f"with --explain: at most so many gradients (default {STEPS})")
    result.add_argument("--tokenizer", type=Path, help="its folder, where it is not the one that the checkpoint names")
    result.add_argument("--import-module", action="append", default=[], help="a module that registers the architecture")
    return result


def run(options: argparse.Namespace) -> Iterator[Section]:
    """The sections, as they are done. Raises what is wrong with arguments or checkpoint."""
    sections = chosen(options)
    register(options.import_module)
    unknown = unknown_fields(options.checkpoint)
    try:
        subject = load_subject(options.checkpoint, tokenizer=options.tokenizer)
    except ValueError:
        if unknown is not None:  # the reason, most likely
            yield unknown
        raise
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
    texts: Sequence[str] = TEXTS
    labels: Sequence[int] | None = None
    if options.batch is not None:
        texts, labels = read_batch(options.batch, subject.model.config.label2id)
    asked = Options(depth=options.depth, text=options.text, texts=texts, labels=labels, pictures=options.pictures)
    yield from reports(subject, sections, asked)
    if options.explain is not None:
        picture = asked.picture("explanation")
        yield explanation(subject, text=options.explain, label=options.label, steps=options.steps, picture=picture)


def chosen(options: argparse.Namespace) -> list[str]:
    """The sections' names. ValueError for one that there is not, and for numbers and texts that make no sense."""
    if options.sections is None:
        names = [] if options.explain is not None else list(SECTIONS)
    else:
        names = [name.strip() for name in options.sections.split(",") if name.strip()]
    for name in names:
        if name not in SECTIONS:
            raise ValueError(f"--sections: there is no {name!r}; there are {', '.join(SECTIONS)}")
    for flag, value, least in (("--depth", options.depth, 0), ("--steps", options.steps, 1)):
        if value < least:
            raise ValueError(f"{flag} {value}: must be at least {least}")
    for flag, text in (("--text", options.text), ("--explain", options.explain)):
        if text is not None and not text.strip():
            raise ValueError(f"{flag}: the text is empty")
    return names


def read_batch(path: Path, label2id: dict[str, int]) -> tuple[tuple[str, ...], list[int]]:
    """Texts and labels. ValueError for a line that is not `label<TAB>text`."""
    known = label2id | {str(index): index for index in label2id.values()}
    texts, labels = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        label, tab, text = line.partition("\t")
        if not line.strip():
            continue
        if not tab or not text.strip() or label not in known:
            raise ValueError(f"{path}:{number}: must be label<TAB>text, the label one of {', '.join(known)}")
        texts.append(text)
        labels.append(known[label])
    if not texts:
        raise ValueError(f"{path}: no text in it")
    return tuple(texts), labels


def reason(error: Exception) -> str:
    """One line, with the remedy where a library is missing."""
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return f"{error.name} is missing: pip install 'valence[{EXTRAS[error.name]}]'"
    return str(error).strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
