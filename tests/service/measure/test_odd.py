"""What people have on disk and write for themselves: each is served with transformers' scores, or refused in one sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from service.engine.engine import Engine
from service.measure.fidelity import Row, apart
from service.served.catalog import load_catalog
from service.settings import Settings
from tests.service import odd_architectures, odd_checkpoints

SAVED_BY = "tests.service.odd_architectures"
# By its own doing a class gives other scores for the same text each time, or after another text.
NOT_VOUCHED_FOR = {"big_bird": "keeps something of the text before", "reformer": "gives other scores for the same text"}
REFUSED = {
    "bitsandbytes": "quantization_config: weights quantized by bitsandbytes",
    "gptq": "quantization_config: weights quantized by gptq",
    "awq": "quantization_config: weights quantized by awq",
    "layoutlmv3": "takes bbox, the place of each word on a page",
    "sentencepiece_model": "pip install sentencepiece",
    **NOT_VOUCHED_FOR,
}
BATCHING = {
    "gpt2": "equal lengths", "convbert": "equal lengths", "fnet": "equal lengths", "last_step": "equal lengths",
    "no_mask": "equal lengths", "bart": "padded", "gemma2": "padded", "vocab_txt": "packed",
}  # fmt: skip
CHECKPOINTS = {**odd_checkpoints.SERVED, **odd_checkpoints.REFUSED}


def check(row: Row, name: str) -> None:
    said = REFUSED.get(name)
    if said is not None and row.verdict != "right":
        assert row.verdict == "refused"
        assert said in row.served
        assert "\n" not in row.served
        return
    assert row.verdict == "right", row
    assert BATCHING.get(name, "") in row.served


@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
def test_an_odd_checkpoint(name: str, tmp_path: Path) -> None:
    CHECKPOINTS[name](tmp_path / name)
    check(apart(tmp_path / name, "float32", ""), name)


@pytest.mark.parametrize("name", sorted(odd_architectures.CLASSES.keys() - {"random"}))
def test_an_odd_architecture(name: str, tmp_path: Path) -> None:
    check(apart(odd_architectures.save(name, tmp_path / name), "float32", SAVED_BY), name)


def test_an_architecture_that_is_random_is_refused(tmp_path: Path) -> None:
    row = apart(odd_architectures.save("random", tmp_path / "random"), "float32", SAVED_BY)
    assert (row.verdict, "its forward is random" in row.served) == ("refused", True)


def test_a_readers_own_custom_bert_is_served_as_it_was_saved(tmp_path: Path) -> None:
    """Its name is that of many texts; ours has another. Its table of positions is in no file, and transformers leaves it as
    memory happens to be: the reference is the class as its constructor makes it."""
    from tests.service import odd_custom_bert

    folder = odd_custom_bert.save(tmp_path / "reader")
    settings = Settings(models=(f"reader={folder}",), import_modules=("tests.service.odd_custom_bert",), device="cpu")
    (served,) = load_catalog(settings)
    engine = Engine(served, device="cpu", settings=settings)
    plain = odd_custom_bert.ReaderBertForSequenceClassification(engine.model.config).eval()
    plain.load_state_dict(load_file(folder / "model.safetensors"))
    with torch.inference_mode():
        expected = [plain(torch.from_numpy(text.ids).long()[None]).logits[0].numpy() for text in engine.trials]
    assert engine.details["class"] == "ReaderBertForSequenceClassification"
    np.testing.assert_allclose(engine.logits(engine.trials), expected, atol=1e-4, rtol=0)
