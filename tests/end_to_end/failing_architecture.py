"""A classifier that misbehaves on purpose: a certain word in a text brings about each fault.

Importing this module registers it. It declares no `_supports_packed`, so the service pads its batches.
"""

import ctypes
import os
import time
from pathlib import Path

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

# `FailingConfig` says what each word does to the forward.
WORDS = ("poison", "slow", "hungry", "stuck", "frozen", "nap", "fatal")
HOUR_S = 3600
NAP_S = 0.05


@strict
class FailingConfig(PreTrainedConfig):
    """Holds the token ids of the words.

    "poison": the forward raises ValueError. "slow": it takes `slow_s` seconds. "nap": it takes `NAP_S`. "hungry": it runs out of
    memory unless its text is alone in the batch. "stuck": it never ends. "frozen": it never ends, and never gives Python's lock
    back. "fatal": it ends the process.

    `huge`: every forward asks for more memory than there is. `gate`: a folder. While it holds a file "closed" no forward goes on,
    and a process that waits there leaves a file named by its pid."""

    model_type = "failing"

    vocab_size: int = 100
    hidden_size: int = 8
    max_position_embeddings: int = 32
    pad_token_id: int | None = 0
    poison: int = -1
    slow: int = -1
    hungry: int = -1
    stuck: int = -1
    frozen: int = -1
    nap: int = -1
    fatal: int = -1
    slow_s: float = 1.5
    huge: bool = False
    gate: str = ""


class FailingForSequenceClassification(PreTrainedModel):
    """The mean of the embeddings, and a linear layer."""

    config: FailingConfig
    base_model_prefix = "failing"

    def __init__(self, config: FailingConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: object) -> SequenceClassifierOutput:
        """Logits (B, labels) of ids (B, L)."""
        if self.config.gate:
            wait_at(Path(self.config.gate))
        held = [word for word in WORDS if bool((input_ids == getattr(self.config, word)).any())]
        if "poison" in held:
            raise ValueError("a token that this model can't bear")
        if "hungry" in held and len(input_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")
        if self.config.huge:
            torch.empty(1 << 50)
        if "fatal" in held:
            os._exit(9)
        if "slow" in held:
            time.sleep(self.config.slow_s)
        if "nap" in held:
            time.sleep(NAP_S)
        if "stuck" in held:
            time.sleep(HOUR_S)
        if "frozen" in held:
            ctypes.PyDLL(None).sleep(HOUR_S)
        mask_BL1 = attention_mask.unsqueeze(-1)
        pooled_BD = (self.embeddings(input_ids) * mask_BL1).sum(1) / mask_BL1.sum(1)
        return SequenceClassifierOutput(logits=self.classifier(pooled_BD))


def wait_at(gate: Path) -> None:
    while (gate / "closed").exists():
        (gate / str(os.getpid())).touch()
        time.sleep(0.01)


def make_checkpoint(folder: Path, texts: tuple[str, ...]) -> None:
    """Makes a checkpoint folder in the Hub's form."""
    from tokenizers_store.training import train_tokenizer

    tokenizer = train_tokenizer([*texts, *WORDS * 8], kind="wordpiece", vocab_size=2000, max_length=32, show_progress=False)
    faults = {word: tokenizer.convert_tokens_to_ids(word) for word in WORDS}
    assert tokenizer.unk_token_id not in faults.values()
    torch.manual_seed(0)
    config = FailingConfig(
        vocab_size=len(tokenizer),
        **faults,
        id2label={0: "no", 1: "yes"},
        label2id={"no": 0, "yes": 1},
    )
    FailingForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


AutoConfig.register(FailingConfig.model_type, FailingConfig, exist_ok=True)
AutoModelForSequenceClassification.register(FailingConfig, FailingForSequenceClassification, exist_ok=True)
