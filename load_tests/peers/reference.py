"""The reference that every server's answers are held against: a plain float32 forward of each text alone.

Prints a JSON list with {label: probability} for each line of the file, labels in the order of their numbers.

    python -m load_tests.peers.reference --model models/checkpoints/sentiment-bert --texts texts.txt
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification

from load_tests.peers.stock_litserve import load_tokenizer
from models import register_architectures


@torch.inference_mode()
def probabilities(model: Path, texts: Sequence[str]) -> list[dict[str, float]]:
    """By the Auto classes."""
    register_architectures()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    classifier = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32, trust_remote_code=False)
    classifier.eval().to(device)
    tokenizer = load_tokenizer(model, None, classifier.config)
    labels = [classifier.config.id2label[label] for label in range(classifier.config.num_labels)]
    found = []
    for text in texts:
        logits = classifier(**tokenizer(text, truncation=True, return_tensors="pt").to(device)).logits
        found.append(dict(zip(labels, logits[0].softmax(dim=-1).tolist(), strict=True)))
    return found


def main() -> None:
    """Prints one JSON list."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.peers.reference")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--texts", type=Path, required=True, help="a text a line")
    options = parser.parse_args()
    print(json.dumps(probabilities(options.model, options.texts.read_text(encoding="utf-8").splitlines())))


if __name__ == "__main__":
    main()
