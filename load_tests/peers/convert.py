"""A checkpoint in the form that servers with a closed list of architectures load: transformers' own class, float32 weights, and
the tokenizer beside them.

    python -m load_tests.peers.convert --model models/checkpoints/sentiment-bert --to /tmp/plain-bert
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
)

from load_tests.peers.stock_litserve import load_tokenizer
from models import register_architectures
from models.custom_bert import CustomBertForSequenceClassification

# What a configuration says of its own class and origin; the rest means the same in both classes.
OWN_FIELDS = ("model_type", "architectures", "tokenizer_name", "transformers_version", "dtype")


def convert(model: Path, to: Path) -> None:
    """Writes the folder `to`. ValueError if transformers has no class of its own for the architecture."""
    register_architectures()
    source = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32, trust_remote_code=False).eval()
    plain_model(source).save_pretrained(to)
    load_tokenizer(model, None, AutoConfig.from_pretrained(model)).save_pretrained(to)
    # The name of the class that wraps tokenizer.json; older versions of transformers know this one only.
    settings_file = to / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    settings_file.write_text(json.dumps(settings | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=2), encoding="utf-8")


def plain_model(source: PreTrainedModel) -> PreTrainedModel:
    """The custom BERT's state dict has BERT's names and shapes, so it is BERT's. transformers' own models are plain already."""
    if isinstance(source, CustomBertForSequenceClassification):
        fields = {name: value for name, value in source.config.to_dict().items() if name not in OWN_FIELDS}
        plain = BertForSequenceClassification(BertConfig(**fields)).eval()
        plain.load_state_dict(source.state_dict())
        return plain
    if type(source).__module__.startswith("transformers."):
        return source
    raise ValueError(f"transformers has no class of its own that computes what {type(source).__name__} does")


def main() -> int:
    """0; 1 with the reason if there is no plain form."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.peers.convert")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    try:
        convert(options.model, options.to)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
