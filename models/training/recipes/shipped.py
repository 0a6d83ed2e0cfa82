"""The shipped checkpoints on disk: loads a trained one, writes a new one, and collects what its card says."""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from models.int8 import load_ranges, save_ranges, write_ranges
from models.loading import CHECKPOINTS, TOKENIZERS, load_classifier
from models.training.card import CardFacts
from models.training.data import Splits
from models.training.recipes.recipe import Recipe

INT8_TEXTS = 512
LANGUAGES = {"english": "en", "chinese": "zh"}


def load_trained(recipe: Recipe) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The saved checkpoint and its tokenizer, in float32. Raises ValueError where there is none."""
    model = load_classifier(CHECKPOINTS / recipe.name, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(TOKENIZERS / recipe.name)


def save(recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, splits: Splits) -> None:
    """Writes the half-precision safetensors checkpoint with its int8 ranges, and the tokenizer to the store."""
    model.half().save_pretrained(CHECKPOINTS / recipe.name)
    tokenizer.save_pretrained(TOKENIZERS / recipe.name)
    texts = random.Random(0).sample([example.text for example in splits.train], INT8_TEXTS)
    saved, _ = load_trained(recipe)
    write_ranges(CHECKPOINTS / recipe.name, saved, tokenizer, texts)


def save_again(recipe: Recipe, model: PreTrainedModel) -> None:
    """Writes a checkpoint of which the output layer alone was changed, in half precision. Its int8 ranges stay: they are of what
    goes into the layers."""
    ranges = load_ranges(CHECKPOINTS / recipe.name)
    model.half().save_pretrained(CHECKPOINTS / recipe.name)
    save_ranges(CHECKPOINTS / recipe.name, ranges)


def card_facts(
    recipe: Recipe, splits: Splits, *, model: PreTrainedModel, command: str, quality: str, calibration: str = ""
) -> CardFacts:
    """What the model card of `recipe` says."""
    sources: Mapping[str, int] = Counter(example.source for example in splits.train)
    return CardFacts(
        name=recipe.name,
        description=recipe.description,
        parameters=model.num_parameters(),
        license=recipe.license,
        tokenizer=f"tokenizers_store/{recipe.name} ({recipe.tokenizer_kind}, {model.config.vocab_size:,} tokens)",
        command=command,
        hyperparameters=asdict(recipe.schedule) | finish_facts(recipe),
        history=recipe.history,
        calibration=calibration,
        train_sources=sources,
        quality=quality,
        labels=recipe.labels,
        languages=(LANGUAGES[recipe.corpus],),
    )


def finish_facts(recipe: Recipe) -> dict[str, str | int | float]:
    """The last stage's settings, where there is one."""
    if recipe.finish is None:
        return {}
    settings = {f"finish: {name}": value for name, value in asdict(recipe.finish).items()}
    return settings | {"finish: share of the average": recipe.finish_share, "class bias": str(recipe.class_bias)}
