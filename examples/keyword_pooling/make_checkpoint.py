"""Makes a small checkpoint of the keyword pooling classifier, as a folder in the Hub's form.

    python -m examples.keyword_pooling.make_checkpoint

A few sentences teach it a few words: it shows how a model is served, not how one is trained.
"""

import argparse
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from examples.keyword_pooling.architecture import KeywordPoolingConfig, KeywordPoolingForSequenceClassification
from tokenizers_store.training import train_tokenizer

FOLDER = Path(__file__).parent / "checkpoint"
MAX_LENGTH = 128
STEPS = 200

SENTENCES = {
    "negative": (
        "This is terrible and I hate it.",
        "What a bad film, boring and awful.",
        "The service was bad and the food was awful.",
        "I hate this terrible phone, the worst one I had.",
        "The worst day, everything is broken.",
        "It arrived broken, I am disappointed.",
        "A boring book, I am very disappointed.",
        "Terrible service, the worst food in the town.",
    ),
    "neutral": (
        "The train leaves at nine.",
        "This is a phone and it is black.",
        "I had the film on at nine.",
        "The book is on the table.",
        "It arrived on Monday.",
        "The service was on Monday in the town.",
        "What day is it in the town?",
        "The food is on the table and the train leaves on Monday.",
    ),
    "positive": (
        "This is wonderful and I love it.",
        "What a great film, funny and excellent.",
        "The service was good and the food was excellent.",
        "I love this great phone, the best one I had.",
        "The best day, everything is perfect.",
        "It arrived perfect, I am happy.",
        "A wonderful book, funny and good, I am very happy.",
        "Excellent service, the best food in the town.",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes a small checkpoint of the keyword pooling classifier.")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to write (default: %(default)s)")
    folder = parser.parse_args().output
    make_checkpoint(folder)
    print(f"wrote {folder}")


def make_checkpoint(folder: Path) -> None:
    """Writes config.json, model.safetensors, tokenizer.json and tokenizer_config.json; the same ones each time."""
    texts = [text for sentences in SENTENCES.values() for text in sentences]
    labels = [label for label, sentences in enumerate(SENTENCES.values()) for _ in sentences]
    tokenizer = train_tokenizer(texts, kind="bpe", vocab_size=600, max_length=MAX_LENGTH, show_progress=False)
    model = fit(tokenizer, texts, torch.tensor(labels))
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def fit(tokenizer: PreTrainedTokenizerFast, texts: list[str], labels: torch.Tensor) -> KeywordPoolingForSequenceClassification:
    """Every step sees all sentences; the loss ends near zero."""
    torch.manual_seed(0)
    names = list(SENTENCES)
    config = KeywordPoolingConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_LENGTH,
        id2label=dict(enumerate(names)),
        label2id={name: label for label, name in enumerate(names)},
    )
    model = KeywordPoolingForSequenceClassification(config).train()
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.05)
    for _ in range(STEPS):
        loss = model(batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


if __name__ == "__main__":
    main()
