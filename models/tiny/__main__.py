"""`python -m models.tiny FOLDER`: a tiny checkpoint of every architecture of text classifiers in transformers.

The weights are random. Each gets a tokenizer of its own class, trained on a few sentences, where that can be built here; else one
of a fitting kind. Nothing is fetched.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils import logging

from models.tiny.checkpoints import ARCHITECTURES, make


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes them, and prints a table of what was made and what was not, with the reason."""
    options = parser().parse_args(arguments)
    unknown = sorted(set(options.only) - set(ARCHITECTURES))
    if unknown:
        sys.exit(f"--only {unknown[0]}: transformers has no text classifier of that name")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    made, failed = [], []
    for name in options.only or ARCHITECTURES:
        try:
            made.append(make(name, options.folder / name))
        except Exception as error:  # an architecture may raise anything
            failed.append((name, reason(error)))
        print(f"\r{len(made) + len(failed)} {name:30}", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    print("| architecture | parameters | tokenizer | logits differ by |\n|---|---:|---|---:|")
    for one in made:
        print(f"| {one.model_type} | {one.parameters:,} | {one.tokenizer} | {one.difference:.2f} |")
    print(f"\n{len(made)} made in {options.folder}, {len(failed)} not:")
    for name, why in failed:
        print(f"- {name}: {why}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m models.tiny", description=__doc__)
    result.add_argument("folder", type=Path, help="gets a folder for each architecture")
    result.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these alone, by their `model_type`")
    return result


def reason(error: Exception) -> str:
    """What was raised, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else ""
    return said if isinstance(error, ValueError | ImportError) else f"{type(error).__name__}: {said}"


if __name__ == "__main__":
    sys.exit(main())
