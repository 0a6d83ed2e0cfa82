"""The tiny checkpoints as subjects."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, DistilBertConfig, RobertaConfig
from transformers.models.distilbert import DistilBertForSequenceClassification
from transformers.models.roberta import RobertaForSequenceClassification

from models.custom_bert import CustomBertConfig, CustomBertForSequenceClassification
from models.gated_conv import GatedConvConfig, GatedConvForSequenceClassification
from models.inspect import Subject, load_subject, register

register(["examples.keyword_pooling.architecture"])
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
# Wide weights make scores that differ.
WIDE = {"initializer_range": 0.2, "num_labels": 3, "max_position_embeddings": 64}
BUILT = {
    "conv": (GatedConvForSequenceClassification, GatedConvConfig, {"embedding_size": 24, "hidden_size": 16}),
    "sparse": (
        CustomBertForSequenceClassification,
        CustomBertConfig,
        {**SIZES, "attention_pattern": ["window", "full"], "attention_window": 2},
    ),
    "bert": (BertForSequenceClassification, BertConfig, SIZES),
    "roberta": (RobertaForSequenceClassification, RobertaConfig, SIZES),
    "distilbert": (DistilBertForSequenceClassification, DistilBertConfig, DISTIL),
}
NAMES = ("tiny-bert", "tiny-lstm", "keyword", *BUILT)


@pytest.fixture(scope="session")
def subject_of(checkpoints: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    """A subject by name: the tiny checkpoints, and others with the tokenizer of `tiny-bert`."""
    import torch

    found: dict[str, Subject] = {}

    def make(name: str) -> Subject:
        if name not in found:
            folder = checkpoints.get(name) or tmp_path_factory.mktemp(name)
            if name not in checkpoints:
                model, config, sizes = BUILT[name]
                tokenizer = AutoTokenizer.from_pretrained(checkpoints["tiny-bert"])
                torch.manual_seed(0)
                fields = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **WIDE, **sizes}
                model(config(**fields)).save_pretrained(folder)
                tokenizer.save_pretrained(folder)
            found[name] = load_subject(folder)
        return found[name]

    return make


@pytest.fixture(scope="session", params=NAMES)
def subject(request: pytest.FixtureRequest, subject_of: Callable[[str], Subject]) -> Subject:
    return subject_of(request.param)
