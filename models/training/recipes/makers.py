"""Carries a recipe out: trains the tokenizer, builds the model, fine-tunes it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from models.int8 import prepare_for_inference, quantize
from models.loading import CHECKPOINTS
from models.training.calibration import output_layer
from models.training.data import Splits
from models.training.inference import predict_logits
from models.training.recipes.chinese import with_soft_labels
from models.training.recipes.cooccurrence import cooccurrence_embeddings
from models.training.recipes.finishing import emoji_examples, finishing_examples
from models.training.recipes.minilm import bert_from_minilm, embed_as_minilm
from models.training.recipes.recipe import Recipe, head_fields, in_classes_of
from models.training.recipes.shipped import load_trained
from models.training.recipes.table import BERT, LSTM_ZH, RECIPES
from models.training.trainer import Runtime, check, fine_tune
from tokenizers_store.training import train_tokenizer

EMOJI_TEXTS = 600  # among some 14,000 reviews, which hold none


def make_tokenizer(recipe: Recipe, splits: Splits, *, show_progress: bool = True) -> PreTrainedTokenizerFast:
    """Trains the recipe's tokenizer on the training texts."""
    texts = [example.text for example in splits.train]
    return train_tokenizer(
        texts, kind=recipe.tokenizer_kind, vocab_size=recipe.vocab_size, length=len(texts), show_progress=show_progress
    )


def make_bert(recipe: Recipe, splits: Splits, *, runtime: Runtime) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """MiniLM-L6 in our architecture with our vocabulary, fine-tuned."""
    tokenizer = make_tokenizer(recipe, splits)
    model = bert_from_minilm(tokenizer, **head_fields(recipe))
    trained = fine_tune(model, tokenizer, train=splits.train, dev=splits.dev, schedule=recipe.schedule, runtime=runtime)
    return finish(recipe, trained, tokenizer, splits, runtime=runtime), tokenizer


def make_student(recipe: Recipe, splits: Splits, *, runtime: Runtime) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Any architecture on MiniLM's embeddings, distilled from the saved `sentiment-bert` where the schedule gives it weight."""
    tokenizer = make_tokenizer(recipe, splits)
    config = AutoConfig.for_model(recipe.architecture, vocab_size=len(tokenizer), **recipe.fields, **head_fields(recipe))
    model = AutoModelForSequenceClassification.from_config(config)
    check(model, train=splits.train, schedule=recipe.schedule, runtime=runtime)  # before the soft labels, which take minutes
    embed_as_minilm(model, tokenizer)
    teacher_logits = None
    if recipe.schedule.teacher_weight:
        texts = [example.text for example in splits.train]
        teacher_logits = soft_labels(BERT, texts, max_tokens=recipe.schedule.max_tokens, runtime=runtime)
    trained = fine_tune(
        model,
        tokenizer,
        train=splits.train,
        dev=splits.dev,
        schedule=recipe.schedule,
        runtime=runtime,
        teacher_logits=teacher_logits,
    )
    return finish(recipe, trained, tokenizer, splits, runtime=runtime), tokenizer


def make_chinese(recipe: Recipe, splits: Splits, *, runtime: Runtime) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Embeddings of what stands near what; reviews, clauses, contrasts and emoji, distilled from the linear baseline."""
    reviews = in_classes_of(recipe, splits.train)
    emoji = in_classes_of(recipe, emoji_examples(recipe.labels, count=EMOJI_TEXTS, seed=runtime.seed))
    tokenizer = make_tokenizer(recipe, replace(splits, train=[*reviews, *emoji]))
    config = AutoConfig.for_model(recipe.architecture, vocab_size=len(tokenizer), **recipe.fields, **head_fields(recipe))
    model = AutoModelForSequenceClassification.from_config(config)
    print("computing embeddings and soft labels", flush=True)
    table = model.get_input_embeddings()
    ids = tokenizer([example.text for example in reviews + emoji], verbose=False)["input_ids"]  # whole, whatever their length
    start_VD = cooccurrence_embeddings(
        ids, vocab_size=len(tokenizer), width=table.embedding_dim, pad_token_id=tokenizer.pad_token_id
    )
    table.load_state_dict({"weight": start_VD})
    train, soft_labels_S2 = with_soft_labels(reviews, emoji, seed=runtime.seed)
    trained = fine_tune(
        model,
        tokenizer,
        train=train,
        dev=in_classes_of(recipe, splits.dev),
        schedule=recipe.schedule,
        runtime=runtime,
        teacher_logits=soft_labels_S2,
    )
    return trained, tokenizer


def make_from(
    folder: Path, recipe: Recipe, splits: Splits, *, runtime: Runtime
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A checkpoint with its tokenizer, such as `pretraining` makes, fine-tuned from labels; what its head lacks starts anew.

    Raises ValueError where there is no such folder.
    """
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} holds no checkpoint to start from: no config.json")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, **head_fields(recipe))
    trained = fine_tune(
        model,
        tokenizer,
        train=in_classes_of(recipe, splits.train),
        dev=in_classes_of(recipe, splits.dev),
        schedule=recipe.schedule,
        runtime=runtime,
    )
    if recipe.finish is not None:
        trained = finish(recipe, trained, tokenizer, splits, runtime=runtime)
    return trained, tokenizer


def soft_labels(teacher: Recipe, texts: Sequence[str], *, max_tokens: int, runtime: Runtime) -> torch.Tensor:
    """The saved teacher's logits (texts, labels); they stay in the output folder, where a resumed run finds them.

    On the CPU the teacher runs in int8: 2.2 times the texts a second of float32 with AVX-512 VNNI, and of 1,500 tweets 1.1% got
    another class.
    """
    kept = runtime.output_dir / "soft_labels.safetensors"
    if not (runtime.resume and kept.exists()):
        print(f"computing the soft labels of {len(texts):,} texts", flush=True)
        model, tokenizer = load_trained(teacher)
        if torch.cuda.is_available() and not runtime.cpu:
            model.cuda()
        else:
            prepare_for_inference(model)
            quantize(model, CHECKPOINTS / teacher.name)
        logits = predict_logits(model, tokenizer, texts, max_tokens=max_tokens)
        runtime.output_dir.mkdir(parents=True, exist_ok=True)
        save_file({"logits": logits}, kept)
    return load_file(kept)["logits"]


def finish(
    recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, splits: Splits, *, runtime: Runtime
) -> PreTrainedModel:
    """The last stage: a short pass over balanced classes and emoji, from labels alone, averaged with what was before."""
    assert recipe.finish is not None
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    examples = finishing_examples(splits.train, seed=runtime.seed)
    stage = replace(runtime, output_dir=runtime.output_dir / "finish")
    finished = fine_tune(model, tokenizer, train=examples, dev=splits.dev, schedule=recipe.finish, runtime=stage)
    with torch.no_grad():
        for name, tensor in finished.state_dict().items():
            tensor.lerp_(before[name].to(tensor.device), 1 - recipe.finish_share)
        if any(recipe.class_bias):
            output_layer(finished).bias += torch.tensor(recipe.class_bias, device=finished.device)
    return finished


MAKERS = {name: {BERT.name: make_bert, LSTM_ZH.name: make_chinese}.get(name, make_student) for name in RECIPES}
