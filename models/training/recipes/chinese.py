"""What `sentiment-lstm-zh` learns from beside whole reviews, and what a linear classifier says of each text.

Whole reviews teach a model little about a few words, so a clause of each review is learnt too. They hold no emoji, so rows of
emoji are. And they teach it little about "the screen is fine, but the case is broken", where the second half decides, so clauses
of opposite tone are joined by a conjunction.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from models.training.baselines import held_out_logits
from models.training.data import Example

CLAUSE_END = re.compile(r"[，。！？；、,.!?;~…\s]+")
CLAUSE_CHARS = range(2, 21)
CONJUNCTIONS = ("虽然{}，但是{}", "{}，但是{}", "{}，但{}", "{}，可是{}", "{}，不过{}")
CONTRASTS = 2_000  # beside some 14,000 reviews
SURE = 1.5  # a clause may stand in a contrast where its log odds are above this


def with_soft_labels(
    reviews: Sequence[Example], emoji: Sequence[Example], *, seed: int = 0
) -> tuple[list[Example], torch.Tensor]:
    """Reviews, clauses, emoji and contrasts, of classes 0 and 1, and the logits (texts, 2) to learn from. They are those of a
    linear classifier that was fitted without the text and its review; a contrast's are SURE. Equal seeds give equal texts."""
    clauses, origins = clause_examples(reviews, seed=seed)
    texts = [*reviews, *clauses, *emoji]
    groups = [*range(len(reviews)), *origins, *range(len(reviews), len(reviews) + len(emoji))]
    logits_S2 = torch.tensor(held_out_logits(texts, groups, corpus="chinese", seed=seed), dtype=torch.float32)
    odds = logits_S2.diff().squeeze(1)[len(reviews) :].tolist()
    contrasts = contrast_examples([c for c, odd in zip(clauses, odds, strict=False) if (2 * c.label - 1) * odd > SURE], seed=seed)
    sure_S2 = torch.tensor([[SURE * (label == example.label) for label in (0, 1)] for example in contrasts])
    return texts + contrasts, torch.cat([logits_S2, sure_S2.reshape(-1, 2)])


def clause_examples(reviews: Sequence[Example], *, seed: int = 0) -> tuple[list[Example], list[int]]:
    """A clause of each review that has one of `CLAUSE_CHARS` characters, with the review's label, and the review's index."""
    chance = random.Random(seed)
    clauses, indices = [], []
    for index, review in enumerate(reviews):
        parts = [part for part in CLAUSE_END.split(review.text) if len(part) in CLAUSE_CHARS]
        if parts:
            clauses.append(replace(review, text=chance.choice(parts)))
            indices.append(index)
    return clauses, indices


def contrast_examples(clauses: Sequence[Example], *, seed: int = 0) -> list[Example]:
    """`CONTRASTS` pairs of clauses of opposite classes around one of `CONJUNCTIONS`, with the second one's label; none where a
    class has no clause."""
    chance = random.Random(seed)
    of_class = [[clause for clause in clauses if clause.label == label] for label in (0, 1)]
    if not all(of_class):
        return []
    contrasts = []
    for _ in range(CONTRASTS):
        label = chance.randint(0, 1)
        first, second = chance.choice(of_class[1 - label]), chance.choice(of_class[label])
        contrasts.append(replace(second, text=chance.choice(CONJUNCTIONS).format(first.text, second.text)))
    return contrasts
