"""`python -m models.training`: makes the shipped checkpoints, and the table that says how good they are."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import set_seed

from models import register_architectures
from models.int8 import RANGES_FILE, load_ranges
from models.training import baselines
from models.training.card import write_card
from models.training.data import CACHE_DIR, Example, Splits, load_dataset, load_file
from models.training.evaluation import Predictor, evaluation_sets, quality_table
from models.training.inference import load_predictor
from models.training.recipes import (
    CHECKPOINTS,
    MAKERS,
    RECIPES,
    TOKENIZERS,
    Recipe,
    card_facts,
    load_trained,
    save,
    with_epochs,
)
from models.training.trainer import Runtime


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when done; 2 when an argument or a data file is wrong, which is said in one sentence."""
    register_architectures()
    options = parser().parse_args(arguments)
    try:
        for corpus, recipes in chosen_recipes(options.task).items():
            splits = load_splits(options, corpus)
            for recipe in recipes:
                train(with_epochs(recipe, options.epochs), splits, options)
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
    run.add_argument("--epochs", type=float, help="instead of the recipe's")
    run.add_argument("--max-steps", type=int, default=-1, help="stop after so many steps, for a trial")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--cpu", action="store_true", help="train on the CPU though there is a GPU")
    run.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="mixed precision of training")
    run.add_argument("--gradient-checkpointing", action="store_true", help="less memory for more time; custom_bert only")
    run.add_argument("--output-dir", type=Path, default=Path("runs"), help="checkpoints of the runs, to resume from")
    run.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the output folder")
    return result


def chosen_recipes(task: str) -> dict[str, list[Recipe]]:
    """What to make, by the corpus that it learns from and whose table is printed: for `evaluate` nothing of any."""
    chosen = [RECIPES[task]] if task in RECIPES else list(RECIPES.values())
    corpora = dict.fromkeys(recipe.corpus for recipe in chosen)
    return {corpus: [recipe for recipe in chosen if recipe.corpus == corpus and task != "evaluate"] for corpus in corpora}


def load_splits(options: argparse.Namespace, corpus: str) -> Splits:
    """The data of the command line; the texts of `--eval-file` are in no split."""
    held_out = [example.text for path in options.eval_file for example in load_file(path)]
    return load_dataset(options.cache_dir, corpus=corpus, extra_folders=options.data_folder, exclude=held_out)


def train(recipe: Recipe, splits: Splits, options: argparse.Namespace) -> None:
    """Makes one checkpoint with its tokenizer and card."""
    print(f"{recipe.name}: {len(splits.train):,} texts to learn from, {len(splits.dev):,} to choose by", flush=True)
    set_seed(options.seed)
    runtime = Runtime(
        output_dir=options.output_dir / recipe.name,
        seed=options.seed,
        cpu=options.cpu,
        precision=options.precision,
        gradient_checkpointing=options.gradient_checkpointing,
        resume=options.resume,
        max_steps=options.max_steps,
    )
    model, tokenizer = MAKERS[recipe.name](recipe, splits, runtime=runtime)
    save(recipe, model, tokenizer, splits)
    write_recipe_card(recipe, splits, options)


def write_recipe_card(recipe: Recipe, splits: Splits, options: argparse.Namespace) -> None:
    """The card of the saved checkpoint, with its figures measured anew."""
    model, _ = load_trained(recipe)
    predictor = load_predictor(CHECKPOINTS / recipe.name, TOKENIZERS / recipe.name)
    table = quality_table({recipe.name: predictor}, sets(splits, options, recipe.corpus))
    command = (
        "python -m models.training "
        + recipe.name
        + "".join(
            f" {flag} {shlex.quote(path.name)}"
            for flag, paths in (("--data-folder", options.data_folder), ("--eval-file", options.eval_file))
            for path in paths
        )
    )
    write_card(CHECKPOINTS / recipe.name, facts=card_facts(recipe, splits, model=model, command=command, quality=table))


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
