"""The folder that would be pushed, and what is refused beforehand. What a hub does with it: tests/end_to_end/test_hub.py."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from models.custom_bert import CustomBertForSequenceClassification
from models.int8 import load_ranges, save_ranges
from models.publish import main, write_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dry_run(tmp_path: Path):
    """Runs the command on a checkpoint; the folder that it wrote."""

    def run(checkpoint: Path, *flags: str) -> Path:
        folder = tmp_path / "folder"
        assert main([str(checkpoint), "--repo", "acme/mine", "--dry-run", str(folder), *flags]) == 0
        return folder

    return run


def config_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text())


class TestFolder:
    def test_the_config_names_the_classes_in_the_files_beside_it(self, checkpoints: Mapping[str, Path], dry_run):
        folder = dry_run(checkpoints["tiny-lstm"])
        assert config_of(folder)["auto_map"] == {
            "AutoConfig": "configuration_sentiment_lstm.SentimentLstmConfig",
            "AutoModel": "modeling_sentiment_lstm.SentimentLstmModel",
            "AutoModelForSequenceClassification": "modeling_sentiment_lstm.SentimentLstmForSequenceClassification",
        }
        assert {path.stem for path in folder.glob("*.py")} == {"configuration_sentiment_lstm", "modeling_sentiment_lstm"}

    def test_a_class_saves_as_before_afterwards(self, checkpoints: Mapping[str, Path], dry_run, tmp_path: Path):
        dry_run(checkpoints["tiny-bert"])
        CustomBertForSequenceClassification.from_pretrained(checkpoints["tiny-bert"]).save_pretrained(tmp_path / "later")
        assert not list((tmp_path / "later").glob("*.py"))
        assert "auto_map" not in config_of(tmp_path / "later")

    def test_weights_are_those_of_the_checkpoint_in_their_precision(self, checkpoints: Mapping[str, Path], dry_run, tmp_path):
        half = AutoModelForSequenceClassification.from_pretrained(checkpoints["tiny-bert"]).half()
        half.save_pretrained(tmp_path / "half")
        folder = dry_run(tmp_path / "half", "--tokenizer", str(checkpoints["tiny-bert"]))
        found = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False)
        assert found.dtype == torch.float16
        assert all(torch.equal(tensor, half.state_dict()[name]) for name, tensor in found.state_dict().items())

    def test_a_tokenizer_of_the_store_comes_along(self, dry_run):
        folder = dry_run(ROOT / "models" / "checkpoints" / "sentiment-lstm")
        assert (folder / "tokenizer.json").is_file()
        assert config_of(folder).get("tokenizer_name") is None

    def test_the_card_is_kept_and_says_how_to_load_it(self, dry_run):
        folder = dry_run(ROOT / "models" / "checkpoints" / "sentiment-lstm")
        card = ModelCard.load(folder / "README.md")
        assert card.data.license == "apache-2.0"
        assert "## Training data" in card.text
        assert 'AutoModelForSequenceClassification.from_pretrained("acme/mine", trust_remote_code=True)' in card.text

    def test_a_checkpoint_without_a_card_gets_one(self, checkpoints: Mapping[str, Path], dry_run):
        assert ModelCard.load(dry_run(checkpoints["tiny-bert"]) / "README.md").data.pipeline_tag == "text-classification"

    def test_int8_ranges_come_along(self, checkpoints: Mapping[str, Path], tmp_path: Path):
        model = AutoModelForSequenceClassification.from_pretrained(checkpoints["tiny-bert"])
        model.save_pretrained(tmp_path / "made")
        save_ranges(tmp_path / "made", {})
        write_folder(tmp_path / "made", tmp_path / "folder", repo="acme/mine", tokenizer=checkpoints["tiny-bert"])
        assert load_ranges(tmp_path / "folder") == {}


STRANGER = """
from models.custom_bert import CustomBertConfig, CustomBertForSequenceClassification
from transformers import AutoConfig, AutoModelForSequenceClassification

class LeaningConfig(CustomBertConfig):
    model_type = "leaning"

class LeaningForSequenceClassification(CustomBertForSequenceClassification):
    config: LeaningConfig

AutoConfig.register("leaning", LeaningConfig, exist_ok=True)
AutoModelForSequenceClassification.register(LeaningConfig, LeaningForSequenceClassification, exist_ok=True)
"""


class TestRefusal:
    def test_code_that_leans_on_this_repository(self, checkpoints, tmp_path: Path, monkeypatch, capsys):
        (tmp_path / "leaning.py").write_text(STRANGER)
        monkeypatch.syspath_prepend(tmp_path)
        arguments = [str(checkpoints["tiny-bert"]), "--repo", "acme/mine", "--dry-run", str(tmp_path / "folder")]
        leaning = Path(shutil.copytree(checkpoints["tiny-bert"], tmp_path / "leaning"))
        (leaning / "config.json").write_text(json.dumps(config_of(leaning) | {"model_type": "leaning"}))
        try:
            assert main([str(leaning), *arguments[1:], "--import-module", "leaning"]) == 2
        finally:
            sys.modules.pop("leaning", None)
        assert "leaning.py imports 'models.custom_bert', which is not there where it will be loaded" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--repo", "acme/mine", "--dry-run", "{tmp}/out"), "{tmp}/config.json: no such file; name a checkpoint folder"),
            (("--repo", "mine", "--dry-run", "{tmp}/out"), "--repo mine: write organisation/name"),
            (("--repo", "acme/a b", "--dry-run", "{tmp}/out"), "--repo acme/a b: write organisation/name of letters, digits"),
            (("--repo", "acme/mine"), "no token: set HF_TOKEN, or log in with `hf auth login`"),
        ],
        ids=["checkpoint", "organisation", "name", "token"],
    )
    def test_what_is_wrong_is_one_sentence(self, flags, message, tmp_path: Path, monkeypatch, capsys):
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        assert main([str(tmp_path), *(flag.format(tmp=tmp_path) for flag in flags)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"models.publish: {message.format(tmp=tmp_path)}")
        assert len(said.splitlines()) == 1

    def test_a_folder_that_is_not_empty(self, checkpoints, tmp_path: Path, capsys):
        (tmp_path / "mine").touch()
        assert main([str(checkpoints["tiny-bert"]), "--repo", "acme/mine", "--dry-run", str(tmp_path)]) == 2
        assert f"--dry-run {tmp_path}: the folder is not empty" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (
                lambda weights: weights.pop("classifier.weight"),
                "1 weights are missing or have another shape than config.json says",
            ),
            (lambda weights: weights.update({"classifier.bias": torch.zeros(7)}), "config.json says: classifier.bias"),
        ],
        ids=["missing", "shape"],
    )
    def test_weights_of_another_architecture(self, damage, message, checkpoints, tmp_path: Path, capsys):
        broken = Path(shutil.copytree(checkpoints["tiny-bert"], tmp_path / "broken"))
        weights = load_file(broken / "model.safetensors")
        damage(weights)
        save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
        assert main([str(broken), "--repo", "acme/mine", "--dry-run", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
