"""What the packages' tests share: tiny checkpoints with trained tokenizers, made once a run."""

import getpass
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

# All are read at import, so they are set before any test module is collected.
_FOLDER = tempfile.mkdtemp(prefix="valence-tests-")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _FOLDER
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# To tiny tensors a second thread is only something to wait for: with two the tests took three times the CPU time.
os.environ["OMP_NUM_THREADS"] = "1"
# Of the processes that tests start: a service that is killed leaves its sockets and counters behind. The kernels that it built
# stay where torch has them by itself, for the next run.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}")
os.environ["TMPDIR"] = _FOLDER

SENTENCES = (
    "a wonderful film, funny and moving",
    "a terrible film, boring and slow",
    "the train leaves at nine on monday",
    "i love this phone and i love the camera",
    "i hate this phone and the poor camera",
    "the food was excellent, the service was good",
    "the food was poison, the service was bad",
    "not good at all, not even funny 😍 😡",
    "what a day 😍 what a wonderful day",
    "the book is on the table in the town",
)
TRAINING_TEXTS = SENTENCES * 4
LABELS = {0: "negative", 1: "neutral", 2: "positive"}
# Wide weights make scores that differ between texts, so that a tolerance means something.
TINY = {"initializer_range": 0.2, "id2label": LABELS, "label2id": {label: index for index, label in LABELS.items()}}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full-drills", action="store_true", help="faults at full length: minutes instead of seconds")


def pytest_unconfigure() -> None:
    shutil.rmtree(_FOLDER, ignore_errors=True)


@pytest.fixture(scope="session")
def training_texts() -> tuple[str, ...]:
    return TRAINING_TEXTS


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folders in the Hub's form: `tiny-bert` (48 tokens, WordPiece), `tiny-lstm` (64, BPE), and the example's `keyword`."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from examples.keyword_pooling.make_checkpoint import make_checkpoint
    from models import register_architectures
    from models.custom_bert import CustomBertConfig
    from models.sentiment_lstm import SentimentLstmConfig
    from tokenizers_store.training import train_tokenizer

    register_architectures()
    root = tmp_path_factory.mktemp("checkpoints")
    wordpiece = train_tokenizer(TRAINING_TEXTS, kind="wordpiece", vocab_size=2000, max_length=48, show_progress=False)
    bpe = train_tokenizer(TRAINING_TEXTS, kind="bpe", vocab_size=500, max_length=64, show_progress=False)
    bert = CustomBertConfig(
        vocab_size=len(wordpiece), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=48, **TINY,
    )  # fmt: skip
    lstm = SentimentLstmConfig(vocab_size=len(bpe), embedding_size=24, hidden_size=16, max_position_embeddings=64, **TINY)
    for name, config, tokenizer in (("tiny-bert", bert, wordpiece), ("tiny-lstm", lstm, bpe)):
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    make_checkpoint(root / "keyword")
    return {name: root / name for name in ("tiny-bert", "tiny-lstm", "keyword")}
