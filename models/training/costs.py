"""Time and peak memory of the Trainer's steps, with and without the options that change nothing but the cost of a run.

Each variant trains a model of `sentiment-bert`'s sizes on made-up tokens in a process of its own, on a CPU on one thread.
"""

import contextlib
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from models import register_architectures
from models.custom_bert import CustomBertConfig, CustomBertForSequenceClassification
from models.loading import TOKENIZERS
from models.measuring import in_new_process, measured, now_s
from models.training.recipes.table import BERT
from models.training.trainer import ClassifierTrainer, Runtime, Schedule, collator, prepare, training_arguments

STEPS = 6  # the first one has a column of its own: kernels and optimizer states are made in it
BATCH = 16
FIRST_ID = 5  # after the special tokens
# From a few words to a long post: of a padded batch of 16 such texts half would be padding.
VARIED, LONG = (8, 128), (256, 256)


@dataclass(frozen=True)
class Variant:
    """A row: options of a run, and the least and most tokens of its texts."""

    name: str
    tokens: tuple[int, int]
    options: Mapping[str, Any]


COMPARISONS: Mapping[str, Sequence[Variant]] = {
    "checkpointing": (
        Variant("all activations kept", LONG, {}),
        Variant("gradient checkpointing", LONG, {"gradient_checkpointing": True}),
    ),
    "precision": (
        Variant("float32", LONG, {}),
        Variant("bfloat16, mixed", LONG, {"precision": "bf16"}),
        Variant("float16, mixed, with a scaler", LONG, {"precision": "fp16"}),
    ),
    "compile": (
        Variant("eager, equal lengths", LONG, {}),
        Variant("compiled, equal lengths", LONG, {"compile": True}),
        Variant("eager, varied lengths", VARIED, {}),
        Variant("compiled, varied lengths", VARIED, {"compile": True}),
    ),
    "packing": (
        Variant("padded, sdpa", VARIED, {"attn_implementation": "sdpa"}),
        Variant("packed", VARIED, {"attn_implementation": "packed"}),
    ),
}


@dataclass(frozen=True)
class Cost:
    """Of steps of BATCH texts: the time of the first, and of the fastest of the others, which other work disturbed least; peak
    memory; and the mean loss of all."""

    first_step_s: float
    step_s: float
    memory_mib: float
    loss: float


class StepTimes(TrainerCallback):
    """Seconds of each optimizer step."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: list[float] = []

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.started_at = now_s(self.device)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.seconds.append(now_s(self.device) - self.started_at)


def compare(name: str, *, device: str) -> str:
    """Markdown: a row for each variant; one that the device can't do says so."""
    rows = ["| | first step, s | fastest later step, s | memory, MiB | mean loss |", "|---|---:|---:|---:|---:|"]
    for variant in COMPARISONS[name]:
        if device == "cpu" and variant.options.get("precision") == "fp16":
            rows.append(f"| {variant.name} | needs a GPU | | | |")
            continue
        cost = in_new_process(cost_of, variant, device=device)
        rows.append(
            f"| {variant.name} | {cost.first_step_s:.2f} | {cost.step_s:.2f} | {cost.memory_mib:,.0f} | {cost.loss:.3f} |"
        )
    return "\n".join([*rows, ""])


def cost_of(variant: Variant, *, device: str) -> Cost:
    """Runs STEPS steps in this process."""
    if device == "cpu":
        torch.set_num_threads(1)
    register_architectures()
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / BERT.name)
    set_seed(0)
    model = CustomBertForSequenceClassification(CustomBertConfig(vocab_size=len(tokenizer), num_labels=3))
    schedule = Schedule(epochs=1, learning_rate=1e-4, batch_size=BATCH)
    times = StepTimes(device)
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(Path(folder), cpu=device == "cpu", max_steps=STEPS, **variant.options)
        prepare(model, schedule=schedule, runtime=runtime)
        trainer = ClassifierTrainer(
            model=model,
            args=training_arguments(
                schedule, runtime, rows=STEPS * BATCH, eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
                train_sampling_strategy="random", disable_tqdm=True,
            ),
            train_dataset=made_up(variant.tokens, vocab_size=len(tokenizer)),
            data_collator=collator(tokenizer, runtime),
            callbacks=[times],
            schedule=schedule,
        )  # fmt: skip
        with contextlib.redirect_stdout(sys.stderr):  # what the Trainer prints of its progress
            done, spent = measured(trainer.train, device=device)
    return Cost(times.seconds[0], min(times.seconds[1:]), spent.memory_mib, done.training_loss)


def made_up(tokens: tuple[int, int], *, vocab_size: int) -> Dataset:
    """STEPS batches of texts whose lengths lie anywhere between the two; equal calls give equal texts."""
    chance = random.Random(0)
    lengths = [chance.randint(*tokens) for _ in range(STEPS * BATCH)]
    rows = [[chance.randrange(FIRST_ID, vocab_size) for _ in range(length)] for length in lengths]
    return Dataset.from_dict({"input_ids": rows, "labels": [chance.randrange(3) for _ in rows]})
