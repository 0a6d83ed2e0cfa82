"""`python -m models.int8 CHECKPOINT --texts FILE`: prepares a checkpoint for serving with `--dtype int8`.

Runs the model in float32 over texts like those it will be asked about and writes how wide each layer's inputs are to
`int8_ranges.safetensors` in the folder; the weights stay as they are. A few hundred texts are enough.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from models.int8 import RANGES_FILE, write_ranges
from models.loading import tokenizer_folder
from models.registration import register

SAMPLE = 512


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the file is written; 2 when an argument is wrong, which is said in one sentence."""
    options = parser().parse_args(arguments)
    disable_progress_bar()
    try:
        register(options.import_module)
        texts = [line for line in options.texts.read_text(encoding="utf-8").splitlines() if line.strip()][: options.sample]
        if not texts:
            raise ValueError(f"{options.texts}: no text in it; write one a line")
        model = AutoModelForSequenceClassification.from_pretrained(options.checkpoint, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer or tokenizer_folder(options.checkpoint, model))
        layers = write_ranges(options.checkpoint, model, tokenizer, texts)
    except (ValueError, OSError, ImportError) as error:
        print(f"models.int8: {error}", file=sys.stderr)
        return 2
    print(f"{options.checkpoint / RANGES_FILE}: {layers} linear layers over {len(texts)} texts")
    if not layers:
        print("no layer of this model gains from int8: it will be served in float32")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m models.int8", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("checkpoint", type=Path, help="a checkpoint folder")
    result.add_argument("--texts", type=Path, required=True, help="UTF-8, a text a line, like those to come")
    result.add_argument("--sample", type=int, default=SAMPLE, help=f"how many of them to use, from the first (default {SAMPLE})")
    result.add_argument("--tokenizer", type=Path, help="its folder, where it is not the one that the checkpoint names")
    result.add_argument("--import-module", action="append", default=[], help="a module that registers the architecture")
    return result


if __name__ == "__main__":
    sys.exit(main())
