"""`python -m models.training`: makes the shipped checkpoints, and the table that says how good they are."""

import argparse
import math
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast, set_seed

from models import register_architectures
from models.int8 import RANGES_FILE, load_ranges
from models.loading import CHECKPOINTS, TOKENIZERS
from models.training import baselines
from models.training.calibration import Calibration, OutputLayerError, calibrate
from models.training.card import write_card
from models.training.data import CACHE_DIR, Example, Splits, load_dataset, load_file
from models.training.evaluation import (
    Predictor,
    Scores,
    evaluate,
    evaluation_files,
    evaluation_sets,
    quality_table,
    variance_table,
)
from models.training.inference import load_predictor, predictor
from models.training.recipes import RECIPES, Recipe
from models.training.recipes.makers import MAKERS, make_from
from models.training.recipes.recipe import in_classes_of, with_changes
from models.training.recipes.shipped import card_facts, load_trained, save, save_again
from models.training.reliability import draw
from models.training.trainer import ClassWeights, Runtime


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when done; 2 when an argument or a data file is wrong, which is said in one sentence."""
    register_architectures()
    options = parser().parse_args(arguments)
    try:
        for corpus, recipes in chosen_recipes(options.task).items():
            splits = load_splits(options, corpus)
            for recipe in recipes:
                make = calibrate_saved if options.calibrate_only else train
                make(changed(recipe, options), splits, options)
            print(quality(splits, options, corpus))
    except (ValueError, FileNotFoundError) as error:
        print(f"models.training: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m models.training", description=__doc__)
    result.add_argument(
        "task", choices=["all", *RECIPES, "evaluate"], help="what to make; evaluate only prints the quality table"
    )
    data = result.add_argument_group("data")
    data.add_argument("--cache-dir", type=Path, default=CACHE_DIR, help="where downloaded packages are kept")
    data.add_argument(
        "--data-folder", type=Path, action="append", default=[], help="more training texts: *.tsv of label<TAB>text"
    )
    data.add_argument(
        "--eval-file", type=Path, action="append", default=[], help="a TSV to judge on; its texts are not trained on"
    )
    data.add_argument("--no-baselines", action="store_true", help="leave TF-IDF and VADER out of the table")
    run = result.add_argument_group("run")
    run.add_argument(
        "--calibrate-only",
        action="store_true",
        help="train nothing: fit a temperature for the checkpoint that is there, and write its weights and card again",
    )
    run.add_argument("--epochs", type=float, help="instead of the recipe's")
    run.add_argument("--max-steps", type=int, default=-1, help="stop after so many steps, for a trial")
    run.add_argument(
        "--seeds", type=seeds, default=[0], help="0,1,2 trains three times, keeps the first and prints mean ± deviation"
    )
    run.add_argument("--cpu", action="store_true", help="train on the CPU though there is a GPU")
    run.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="mixed precision of training")
    run.add_argument("--gradient-checkpointing", action="store_true", help="less memory for more time; valence_bert only")
    run.add_argument("--compile", action="store_true", help="torch.compile")
    run.add_argument(
        "--attn-implementation",
        choices=["eager", "sdpa", "packed"],
        help="packed: no padding, and on CUDA in half precision Flash attention",
    )
    run.add_argument("--output-dir", type=Path, default=Path("runs"), help="checkpoints of the runs, to resume from")
    run.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the output folder")
    learning = result.add_argument_group("learning")
    learning.add_argument("--start-from", type=Path, help="a checkpoint folder with its tokenizer, instead of the recipe's start")
    learning.add_argument(
        "--class-weights", type=class_weights, help="balanced, or a weight for each label in order: 2,1,1 for negatives twice"
    )
    learning.add_argument("--layer-decay", type=float, help="each layer learns at this part of the rate of the one above it")
    learning.add_argument("--freeze", type=int, help="the embeddings and so many first layers stay as they are")
    return result


def chosen_recipes(task: str) -> dict[str, list[Recipe]]:
    """What to make, by the corpus that it learns from and whose table is printed: for `evaluate` nothing of any."""
    chosen = [RECIPES[task]] if task in RECIPES else list(RECIPES.values())
    corpora = dict.fromkeys(recipe.corpus for recipe in chosen)
    return {corpus: [recipe for recipe in chosen if recipe.corpus == corpus and task != "evaluate"] for corpus in corpora}


def seeds(text: str) -> list[int]:
    """`0,1,2`."""
    return [int(part) for part in text.split(",")]


def class_weights(text: str) -> ClassWeights:
    """`balanced` or `2,1,1`."""
    weights = () if text == "balanced" else tuple(float(part) for part in text.split(","))
    if not all(map(math.isfinite, weights)):
        raise ValueError(text)
    return weights or "balanced"


def changed(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """The recipe with what the command line says of learning; from a given checkpoint it learns from labels alone."""
    return with_changes(
        recipe,
        epochs=options.epochs,
        class_weights=options.class_weights,
        layer_decay=options.layer_decay,
        freeze=options.freeze,
        teacher_weight=0.0 if options.start_from else None,
    )


def load_splits(options: argparse.Namespace, corpus: str) -> Splits:
    """The data of the command line; the texts of `--eval-file` are in no split."""
    held_out = [example.text for path in options.eval_file for example in load_file(path)]
    return load_dataset(options.cache_dir, corpus=corpus, extra_folders=options.data_folder, exclude=held_out)


def train(recipe: Recipe, splits: Splits, options: argparse.Namespace) -> None:
    """Makes one checkpoint with its tokenizer and card, from the first seed; more seeds are trained to see what they change."""
    print(f"{recipe.name}: {len(splits.train):,} texts to learn from, {len(splits.dev):,} to choose by", flush=True)
    scores: dict[str, list[Scores]] = defaultdict(list)
    for seed in options.seeds:
        model, tokenizer = train_once(recipe, splits, options, seed=seed)
        if seed == options.seeds[0]:
            calibration = calibrate_model(recipe, model, tokenizer, splits, options)
            save(recipe, model, tokenizer, splits)
            write_recipe_card(recipe, splits, options, calibration)
            model, tokenizer = load_trained(recipe)
        if len(options.seeds) > 1:
            for name, examples in sets(splits, options, recipe.corpus).items():
                scores[name].append(evaluate(predictor(model, tokenizer), examples=examples))
    if scores:
        print(variance_table({f"{recipe.name}, seeds {', '.join(map(str, options.seeds))}": scores}))


def train_once(
    recipe: Recipe, splits: Splits, options: argparse.Namespace, *, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """One run."""
    set_seed(seed)
    folder = options.output_dir / recipe.name
    runtime = Runtime(
        output_dir=folder if seed == options.seeds[0] else folder / f"seed-{seed}",
        seed=seed,
        cpu=options.cpu,
        precision=options.precision,
        gradient_checkpointing=options.gradient_checkpointing,
        compile=options.compile,
        attn_implementation=options.attn_implementation,
        resume=options.resume,
        max_steps=options.max_steps,
    )
    maker = partial(make_from, options.start_from) if options.start_from else MAKERS[recipe.name]
    return maker(recipe, splits, runtime=runtime)


def calibrate_saved(recipe: Recipe, splits: Splits, options: argparse.Namespace) -> None:
    """Makes the scores of the checkpoint that is there mean what they say, and writes its card anew."""
    model, tokenizer = load_trained(recipe)
    if calibration := calibrate_model(recipe, model, tokenizer, splits, options):
        save_again(recipe, model)
        write_recipe_card(recipe, splits, options, calibration)


def calibrate_model(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    splits: Splits,
    options: argparse.Namespace,
) -> Calibration | None:
    """Fits on the dev sets (`--eval-file`), and on the dev split where there are none: its texts are of the kind that was learnt
    from, and on others a model is right less often and as sure. Says so and returns None where the model can't be calibrated."""
    files = evaluation_files(options.eval_file, corpus=recipe.corpus)
    others = {"in-domain dev": splits.dev, "in-domain test": splits.test}
    fit_on = files or {"in-domain dev": others.pop("in-domain dev")}
    try:
        calibration = calibrate(
            model,
            tokenizer,
            fit_on={name: in_classes_of(recipe, examples) for name, examples in fit_on.items()},
            judge_on={name: in_classes_of(recipe, examples) for name, examples in others.items()},
        )
    except OutputLayerError as error:
        print(f"{recipe.name} keeps the scores that it learnt: {error}", file=sys.stderr, flush=True)
        return None
    print(f"{recipe.name}: {calibration}", flush=True)
    return calibration


def write_recipe_card(recipe: Recipe, splits: Splits, options: argparse.Namespace, calibration: Calibration | None) -> None:
    """The card of the saved checkpoint with its diagram, its figures measured anew."""
    model, _ = load_trained(recipe)
    table = quality_table(
        {recipe.name: load_predictor(CHECKPOINTS / recipe.name, TOKENIZERS / recipe.name)}, sets(splits, options, recipe.corpus)
    )
    command = f"python -m models.training {recipe.name}{shown(options)}"
    facts = card_facts(
        recipe, splits, model=model, command=command, quality=table, calibration=str(calibration) if calibration else ""
    )
    write_card(CHECKPOINTS / recipe.name, facts=facts)
    if calibration:
        draw(CHECKPOINTS / recipe.name, calibration)


def shown(options: argparse.Namespace) -> str:
    """The flags that decide what is learnt, for a card: of paths the last part."""
    paths = [
        (flag, path)
        for flag, given in (("--data-folder", options.data_folder), ("--eval-file", options.eval_file))
        for path in given
    ]
    paths += [("--start-from", options.start_from)] if options.start_from else []
    flags = [(flag, path.name) for flag, path in paths]
    flags += [
        (f"--{name.replace('_', '-')}", ",".join(map(str, given)) if isinstance(given, tuple) else str(given))
        for name in ("epochs", "class_weights", "layer_decay", "freeze")
        if (given := getattr(options, name)) is not None
    ]
    flags += [("--max-steps", str(options.max_steps))] if options.max_steps > 0 else []
    return "".join(f" {flag} {shlex.quote(value)}" for flag, value in flags)


def quality(splits: Splits, options: argparse.Namespace, corpus: str) -> str:
    """The quality table of a corpus: every shipped checkpoint of its language, beside baselines fitted in this run."""
    predictors: dict[str, Predictor] = {}
    for name in (name for name, recipe in RECIPES.items() if recipe.corpus == corpus):
        if (CHECKPOINTS / name).exists():
            predictors[name] = load_predictor(CHECKPOINTS / name, TOKENIZERS / name)
        if has_int8(name):
            predictors[f"{name}, int8"] = load_predictor(CHECKPOINTS / name, TOKENIZERS / name, int8=True)
    if not options.no_baselines:
        print("fitting TF-IDF + logistic regression", file=sys.stderr, flush=True)
        predictors["TF-IDF + logistic regression"] = baselines.fit_tfidf(splits.train, corpus=corpus)
        predictors |= {"VADER": baselines.vader()} if corpus == "english" else {}
    return quality_table(predictors, sets(splits, options, corpus))


def has_int8(name: str) -> bool:
    """Whether the shipped checkpoint has layers that run in int8."""
    return (CHECKPOINTS / name / RANGES_FILE).exists() and bool(load_ranges(CHECKPOINTS / name))


def sets(splits: Splits, options: argparse.Namespace, corpus: str) -> dict[str, Sequence[Example]]:
    return evaluation_sets(splits.test, files=options.eval_file, corpus=corpus)


if __name__ == "__main__":
    sys.exit(main())
