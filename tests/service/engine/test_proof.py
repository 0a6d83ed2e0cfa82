"""What is found out about classes that nobody here wrote, and the sentence for those that can't be served."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from service.engine.engine import Engine
from service.engine.kept import KeptProofs
from service.engine.packs import TextIds
from service.engine.proof import logits_of
from service.served.catalog import CatalogError, ServedModel, load_catalog
from service.settings import Settings
from tokenizers_store.training import train_tokenizer

WIDTH = 16
TOLERANCE = 1e-4


class OddConfig(PreTrainedConfig):
    """`classes`: logits, whatever `num_labels` says."""

    model_type = "odd_in_the_proof"

    vocab_size: int = 2000
    classes: int = 2
    pooling: str = "mean"
    returns: str = "output"
    noise: float = 0.0
    max_position_embeddings: int = 40
    positions: int = 40
    broken_token: int = -1


class OddModel(PreTrainedModel):
    """Embeddings with positions, a pooling, a linear layer."""

    config: OddConfig
    base_model_prefix = "odd"

    def __init__(self, config: OddConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, WIDTH)
        self.positions = nn.Embedding(config.positions, WIDTH)
        self.classifier = nn.Linear(WIDTH, config.classes)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        hidden = self.embeddings(input_ids) + self.positions(torch.arange(input_ids.shape[1]).expand(input_ids.shape))
        if self.config.pooling == "last":  # whatever stands there, padding included
            pooled = hidden[:, -1]
        elif self.config.pooling == "mean" and attention_mask is not None:
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weights).sum(1) / weights.sum(1)
        elif self.config.pooling == "alone":
            pooled = hidden.mean(dim=(0, 1)).expand(len(input_ids), -1)
        else:
            pooled = hidden.mean(1)
        logits = self.classifier(pooled * 10 + self.config.noise * torch.randn_like(pooled))
        logits = logits.masked_fill((input_ids == self.config.broken_token).any(1, keepdim=True), float("nan"))
        return {
            "output": SequenceClassifierOutput(logits=logits),
            "tuple": (logits, hidden),
            "bare": logits,
            "mapping": {"logits": logits},
            "tokens": hidden,
            "nothing": None,
        }[self.config.returns]


AutoConfig.register(OddConfig.model_type, OddConfig, exist_ok=True)
AutoModelForSequenceClassification.register(OddConfig, OddModel, exist_ok=True)
Serve = Callable[..., ServedModel]


@pytest.fixture
def serve(tmp_path: Path, training_texts: tuple[str, ...]) -> Serve:
    """A checkpoint of the odd model, as the catalog describes it."""

    def make(**fields: Any) -> ServedModel:
        tokenizer = train_tokenizer(training_texts, kind="wordpiece", vocab_size=300, max_length=40, show_progress=False)
        torch.manual_seed(0)
        OddModel(OddConfig(**fields)).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        (served,) = load_catalog(Settings(models=(f"odd={tmp_path}",)))
        return served

    return make


def engine_of(served: ServedModel, **fields: Any) -> Engine:
    return Engine(served, device="cpu", settings=Settings(device="cpu", **fields))


def texts(*lengths: int) -> list[TextIds]:
    draw = np.random.default_rng(0)
    return [TextIds(draw.integers(10, 250, length).astype(np.int32)) for length in lengths]


@pytest.mark.parametrize(
    ("pooling", "batching"), [("mean", "padded"), ("last", "equal lengths"), ("blind", "equal lengths"), ("alone", "one by one")]
)
def test_the_cheapest_way_that_keeps_the_scores_serves(serve: Serve, pooling: str, batching: str) -> None:
    served = serve(pooling=pooling)
    engine = engine_of(served)
    assert engine.details["batching"] == batching
    plain = OddModel.from_pretrained(served.path).eval()
    asked = texts(5, 9, 9, 30, 3, 9)
    with torch.inference_mode():
        expected = [logits_of(plain(torch.from_numpy(text.ids).long()[None]))[0].numpy() for text in asked]
    np.testing.assert_allclose(engine.logits(asked), expected, atol=TOLERANCE, rtol=0)


def test_what_was_refused_is_said_with_how_far_it_was_off(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "valence.worker"):
        engine = engine_of(serve(pooling="last"))
    assert engine.details["ways_refused"].startswith("padded: a logit is off by ")
    assert "odd is not served padded: a logit is off by " in caplog.text


@pytest.mark.parametrize("returns", ["output", "tuple", "bare", "mapping"])
def test_logits_are_found_in_whatever_holds_them(serve: Serve, returns: str) -> None:
    assert engine_of(serve(returns=returns)).logits(texts(5, 7)).shape == (2, 2)


@pytest.mark.parametrize(("returns", "said"), [("tokens", "gives a tensor (1, "), ("nothing", "gives NoneType")])
def test_a_forward_without_logits_is_refused(serve: Serve, returns: str, said: str) -> None:
    with pytest.raises(CatalogError, match="OddModel gave no score for any of") as caught:
        engine_of(serve(returns=returns))
    assert said in str(caught.value)


def test_a_forward_that_is_random_is_refused(serve: Serve) -> None:
    with pytest.raises(CatalogError, match="gives other scores for the same text when it is asked again"):
        engine_of(serve(noise=0.5))


def test_more_logits_than_labels_without_names_are_numbered(serve: Serve) -> None:
    engine = engine_of(serve(classes=3))
    assert engine.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_more_logits_than_named_labels_are_refused(serve: Serve) -> None:
    with pytest.raises(CatalogError, match=r"gives 3 logits, but config\.json names 2 labels"):
        engine_of(serve(classes=3, id2label={0: "bad", 1: "good"}))


@pytest.mark.parametrize("unused", [1, 2, 9])
def test_the_limit_is_what_the_model_really_takes(serve: Serve, unused: int) -> None:
    engine = engine_of(serve(positions=40 - unused))
    assert engine.max_length == 40 - unused
    assert engine.logits(texts(engine.max_length)).shape == (1, 2)


def test_half_precision_is_held_to_the_librarys_own_error(serve: Serve) -> None:
    engine = engine_of(serve(), dtype="bfloat16")
    assert engine.details["dtype"] == "bfloat16"
    off, allowed = map(float, engine.details["difference"].split(" of "))
    assert TOLERANCE < allowed < 1
    assert off <= allowed


def test_a_second_start_goes_by_what_the_first_found_out(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(pooling="last", positions=38)
    folder = tmp_path / "kept"
    first = engine_of(served, tuning_dir=folder)
    monkeypatch.setattr("service.engine.engine.Proof", None)
    again = engine_of(served, tuning_dir=folder)
    assert (again.details, again.max_length, again.labels) == (first.details, first.max_length, first.labels)
    (kept,) = folder.iterdir()
    kept.write_text("{}")
    settings = Settings(device="cpu", tuning_dir=folder)
    assert KeptProofs(settings, served, device="cpu").read() is None


def test_another_arithmetic_is_proven_for_itself(serve: Serve, tmp_path: Path) -> None:
    served = serve()
    chosen = [Settings(dtype=dtype, tuning_dir=tmp_path) for dtype in ("float32", "bfloat16")]
    assert len({KeptProofs(settings, served, device="cpu")._path for settings in chosen}) == 2
