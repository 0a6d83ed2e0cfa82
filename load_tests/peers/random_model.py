"""`python -m load_tests.peers.random_model FOLDER`: a BERT classifier with random weights and the shipped tokenizer.

It is for measuring speed; its scores mean nothing. The default size is that of BERT-base.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from load_tests.servers import ROOT
from models import register_architectures
from models.custom_bert import CustomBertConfig

TOKENIZER = ROOT / "tokenizers_store" / "sentiment-bert"


def main() -> None:
    """Writes the checkpoint in the Hub's form."""
    options = parser().parse_args()
    register_architectures()
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    config = CustomBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        intermediate_size=4 * options.width,
        max_position_embeddings=512,
        num_labels=3,
    )
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(options.folder)
    tokenizer.save_pretrained(options.folder)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m load_tests.peers.random_model", description=__doc__)
    result.add_argument("folder", type=Path)
    result.add_argument("--layers", type=int, default=12)
    result.add_argument("--width", type=int, default=768)
    return result


if __name__ == "__main__":
    main()
