"""Tiny architectures, and batches for them, that the contract runs over."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from models import register_architectures
from models.custom_bert import CustomBertConfig
from models.gated_conv import GatedConvConfig
from models.sentiment_lstm import SentimentLstmConfig

register_architectures()

TEXTS: tuple[tuple[int, ...], ...] = ((2, 17, 40, 41, 3), (2, 9, 3), (2, 50, 51, 52, 53, 54, 55, 3), (2, 9, 9, 8, 3))

# Wide weights make logits of order 1, so that a tolerance means something.
TINY = {"vocab_size": 200, "max_position_embeddings": 48, "initializer_range": 0.2, "num_labels": 3}


@dataclass(frozen=True)
class Architecture:
    """A tiny configuration, and the attention backends that take packed input (the default one where it has no choice)."""

    config: PreTrainedConfig
    packed_backends: tuple[str, ...]
    variant: str = ""

    @property
    def name(self) -> str:
        return self.config.model_type + self.variant


BERT = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, **TINY}

# A new architecture adds one row.
ARCHITECTURES = (
    Architecture(CustomBertConfig(num_hidden_layers=2, **BERT), packed_backends=("eager", "sdpa", "packed")),
    Architecture(
        CustomBertConfig(
            num_hidden_layers=3, attention_pattern=["window", "full", "strided"], attention_window=2, attention_stride=3, **BERT
        ),
        packed_backends=("eager", "sdpa", "packed"),
        variant="-sparse",
    ),
    Architecture(SentimentLstmConfig(embedding_size=24, hidden_size=16, **TINY), packed_backends=("eager",)),
    Architecture(GatedConvConfig(embedding_size=24, hidden_size=16, **TINY), packed_backends=("eager",)),
)

Build = Callable[..., PreTrainedModel]


@pytest.fixture
def architectures() -> Sequence[Architecture]:
    return ARCHITECTURES


@pytest.fixture(params=ARCHITECTURES, ids=lambda architecture: architecture.name)
def config(request: pytest.FixtureRequest) -> PreTrainedConfig:
    """Each architecture's tiny configuration; a copy, free to change."""
    return copy.deepcopy(request.param.config)


@pytest.fixture(
    params=[(architecture, backend) for architecture in ARCHITECTURES for backend in architecture.packed_backends],
    ids=lambda pair: f"{pair[0].name}-{pair[1]}",
)
def packed_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """Each architecture's classifier with each attention backend that takes packed input."""
    architecture, backend = request.param
    return build(copy.deepcopy(architecture.config), attn_implementation=backend)


@pytest.fixture
def model(config: PreTrainedConfig) -> PreTrainedModel:
    """Each architecture's classifier with its default attention."""
    return build(config)


def build(config: PreTrainedConfig, **kwargs: object) -> PreTrainedModel:
    """A classifier in evaluation mode with weights that depend on nothing but the configuration."""
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config, **kwargs).eval()


@dataclass(frozen=True)
class Batches:
    """Token ids in the two forms that a model takes."""

    texts: tuple[tuple[int, ...], ...] = TEXTS

    def padded(self, *, extra: int = 0, left: int = 0) -> dict[str, torch.Tensor]:
        """`left` places of padding before and at least `extra` after each text, filled with an ordinary token's id: what
        lies under the mask must not matter."""
        length = left + max(map(len, self.texts)) + extra
        ids = torch.full((len(self.texts), length), 7)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(self.texts):
            ids[row, left : left + len(text)] = torch.tensor(text, dtype=torch.int64)
            mask[row, left : left + len(text)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def packed(self) -> dict[str, torch.Tensor | int]:
        """The texts one after another, as models/README.md says."""
        lengths = [len(text) for text in self.texts]
        cu_seq_lens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        return {
            "input_ids": torch.tensor([[token for text in self.texts for token in text]]),
            "position_ids": torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0),
            "cu_seq_lens_q": cu_seq_lens,
            "cu_seq_lens_k": cu_seq_lens,
            "max_length_q": max(lengths),
            "max_length_k": max(lengths),
        }

    def with_empty_text(self) -> "Batches":
        return Batches((*self.texts, ()))


@pytest.fixture
def batches() -> Batches:
    return Batches()
