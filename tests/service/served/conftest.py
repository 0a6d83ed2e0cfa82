"""Tiny checkpoints of transformers' own architectures."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "wonderful", "terrible", "film", "word")
SIZES = {"vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make(kind, **fields)`: a checkpoint of an architecture with a vocabulary of words; `words=()` for one without."""

    def made(kind: str, *, words: tuple[str, ...] = WORDS, **fields: object) -> Path:
        torch.manual_seed(0)
        known = vars(CONFIG_MAPPING[kind]())
        config = CONFIG_MAPPING[kind](**{**{name: size for name, size in SIZES.items() if name in known}, **fields})
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / kind)
        if words:
            (tmp_path / kind / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
            named = {"tokenizer_class": "BertTokenizer"}
            (tmp_path / kind / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
        return tmp_path / kind

    return made
