"""Architectures as people write them for themselves, each odd in one way. Importing this module registers them.

`save(name, folder)` writes a checkpoint of one, with random weights and a trained tokenizer.

Shapes: `B` batch, `L` length, `D` width, `C` labels.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from models.tiny.checkpoints import draw
from models.tiny.configs import LABELS
from models.tiny.vocabularies import own_tokenizer

# The forward of "raising" fails where a text holds it.
POISON = "poison"
MAX_LENGTH = 64


@strict
class OddConfig(PreTrainedConfig):
    """What they share; there is no limit of length but the tokenizer's."""

    vocab_size: int = 400
    hidden_size: int = 16
    pad_token_id: int | None = 0


class OddClassifier(PreTrainedModel):
    """Embeddings, a masked mean, a linear layer."""

    config_class: ClassVar[type[PreTrainedConfig]] = OddConfig
    base_model_prefix = "odd"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def masked_mean(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """(B, C). A word counts for more towards the end, so that order means something."""
        mask_BL = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights_BL1 = (mask_BL.cumsum(1) * mask_BL).unsqueeze(-1).float()
        return self.classifier((self.embeddings(input_ids).tanh() * weights_BL1).sum(1) / weights_BL1.sum(1).clamp(min=1))


class NoMaskConfig(OddConfig):
    model_type = "odd_no_mask"


class NoMask(OddClassifier):
    """Takes no mask, so padding counts as a word."""

    config_class = NoMaskConfig

    def forward(self, input_ids: torch.Tensor) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.masked_mean(input_ids, None))


class TupleConfig(OddConfig):
    model_type = "odd_tuple"


class TupleOutput(OddClassifier):
    """A tuple, as models gave before there were outputs with names."""

    config_class = TupleConfig

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        return self.masked_mean(input_ids, attention_mask), self.embeddings(input_ids)


class TensorConfig(OddConfig):
    model_type = "odd_tensor"


class TensorOutput(OddClassifier):
    """The logits alone."""

    config_class = TensorConfig

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.masked_mean(input_ids, attention_mask)


class DictConfig(OddConfig):
    model_type = "odd_dict"


class DictOutput(OddClassifier):
    """A plain dict, in which the logits are not first."""

    config_class = DictConfig

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> dict[str, Any]:
        return {"words": input_ids.shape[1], "logits": self.masked_mean(input_ids, attention_mask)}


class ExtraFieldsConfig(PreTrainedConfig):
    """Fields of every kind, in the form that configurations had for years."""

    model_type = "odd_extra_fields"

    def __init__(self, vocab_size: int = 400, hidden_size: int = 16, scales: tuple[float, ...] = (1.0,), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.pad_token_id = kwargs.get("pad_token_id", 0)
        self.scales = list(scales)
        self.training_notes = {"author": "me", "epochs": 3, "best": None}


class ExtraFields(OddClassifier):
    """Uses a field of its own."""

    config_class = ExtraFieldsConfig

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, token_type_ids: torch.Tensor | None = None
    ) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.masked_mean(input_ids, attention_mask) * sum(self.config.scales))


class GruConfig(OddConfig):
    model_type = "odd_gru"


class Gru(OddClassifier):
    """A recurrence in both directions that is told the lengths."""

    config_class = GruConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.gru = nn.GRU(config.hidden_size, config.hidden_size // 2, batch_first=True, bidirectional=True)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SequenceClassifierOutput:
        lengths = input_ids.ne(self.config.pad_token_id).sum(1) if attention_mask is None else attention_mask.sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embeddings(input_ids), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, last_2BD = self.gru(packed)
        return SequenceClassifierOutput(logits=self.classifier(torch.cat(tuple(last_2BD), dim=-1)))


class NgramsConfig(PreTrainedConfig):
    """Has no vocabulary: pairs of bytes fall into buckets."""

    model_type = "odd_ngrams"

    def __init__(self, buckets: int = 97, width: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.buckets = buckets
        self.width = width


class Ngrams(PreTrainedModel):
    """A bag of hashed pairs of bytes. Its tokenizer gives bytes and has no special token, so `pad_token_id` is unset."""

    config_class = NgramsConfig
    base_model_prefix = "ngrams"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bag = nn.EmbeddingBag(config.buckets, config.width)
        self.head = nn.Linear(config.width, config.num_labels)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SequenceClassifierOutput:
        mask_BL = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        before_BL = nn.functional.pad(input_ids, (1, 0))[:, :-1]
        hashed_BL = (before_BL * 257 + input_ids * 31 + 7) % self.config.buckets
        bags_BD = [self.bag(row[mask.bool()].unsqueeze(0))[0] for row, mask in zip(hashed_BL, mask_BL, strict=True)]
        return SequenceClassifierOutput(logits=self.head(torch.stack(bags_BD).tanh()))


class RaisingConfig(OddConfig):
    model_type = "odd_raising"

    poison_token_id: int = -1


class Raising(OddClassifier):
    """Fails on a batch in which a text holds a certain word."""

    config_class = RaisingConfig

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SequenceClassifierOutput:
        if input_ids.eq(self.config.poison_token_id).any():
            raise ValueError("a word that this model can't bear")
        return SequenceClassifierOutput(logits=self.masked_mean(input_ids, attention_mask))


class LastStepConfig(OddConfig):
    model_type = "odd_last_step"


class LastStep(OddClassifier):
    """Takes a mask and ignores it: the last time step classifies, which in a padded row is padding."""

    config_class = LastStepConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.gru = nn.GRU(config.hidden_size, config.hidden_size, batch_first=True)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SequenceClassifierOutput:
        states_BLD, _ = self.gru(self.embeddings(input_ids))
        return SequenceClassifierOutput(logits=self.classifier(states_BLD[:, -1]))


class ReaderLstmConfig(PreTrainedConfig):
    """Three classes by a field of its own, while `num_labels` stays two by default; no padding token is said."""

    model_type = "odd_reader_lstm"

    def __init__(
        self, vocab_size: int = 400, embedding_dim: int = 16, hidden_dim: int = 12, num_classes: int = 3, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.embedding_dim = embedding_dim
        self.hidden_dim = hidden_dim
        self.num_classes = num_classes


class ReaderLstm(PreTrainedModel):
    """Two directions, the last time step, and weights drawn by `.data.normal_`."""

    config_class = ReaderLstmConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_dim)
        self.lstm = nn.LSTM(config.embedding_dim, config.hidden_dim, 2, batch_first=True, bidirectional=True, dropout=0.3)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(2 * config.hidden_dim, config.num_classes)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(mean=0.0, std=0.02)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> SequenceClassifierOutput:
        states_BLD, _ = self.lstm(self.embedding(input_ids))
        return SequenceClassifierOutput(logits=self.fc(self.dropout(states_BLD[:, -1])))


class DataInitConfig(OddConfig):
    model_type = "odd_data_init"


class DataInit(OddClassifier):
    """Draws its weights past transformers' own marks of what is loaded: some versions draw them again after loading."""

    config_class = DataInitConfig

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(mean=0.0, std=0.02)
        if isinstance(module, nn.Linear):
            module.bias.data.zero_()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.masked_mean(input_ids, attention_mask))


class RandomConfig(OddConfig):
    model_type = "odd_random"


class Random(OddClassifier):
    """Dropout that `eval()` does not turn off."""

    config_class = RandomConfig

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SequenceClassifierOutput:
        logits = self.masked_mean(input_ids, attention_mask)
        return SequenceClassifierOutput(logits=nn.functional.dropout(logits, 0.3, training=True))


CLASSES: dict[str, type[PreTrainedModel]] = {
    "no_mask": NoMask,
    "tuple": TupleOutput,
    "tensor": TensorOutput,
    "dict": DictOutput,
    "extra_fields": ExtraFields,
    "gru": Gru,
    "ngrams": Ngrams,
    "raising": Raising,
    "last_step": LastStep,
    "reader_lstm": ReaderLstm,
    "data_init": DataInit,
    "random": Random,
}
for _kind in CLASSES.values():
    AutoConfig.register(_kind.config_class.model_type, _kind.config_class, exist_ok=True)
    AutoModelForSequenceClassification.register(_kind.config_class, _kind, exist_ok=True)


def save(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Writes a checkpoint of `CLASSES[name]`."""
    kind = CLASSES[name]
    tokenizer = byte_tokenizer() if name == "ngrams" else own_tokenizer("BertTokenizer")
    tokenizer.model_max_length = MAX_LENGTH
    fields: dict[str, Any] = {} if name == "ngrams" else {"vocab_size": len(tokenizer)}
    if name != "reader_lstm":
        fields |= {"id2label": LABELS, "label2id": {label: index for index, label in LABELS.items()}}
    if name == "extra_fields":
        fields["scales"] = (0.5, 0.75)
    if name == "raising":
        fields["poison_token_id"] = tokenizer.convert_tokens_to_ids(POISON)
        assert fields["poison_token_id"] != tokenizer.unk_token_id
    torch.manual_seed(seed)
    model = kind(kind.config_class(**fields))
    with torch.no_grad():
        draw(model, 0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """An id for each byte, and nothing else."""
    alphabet = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
