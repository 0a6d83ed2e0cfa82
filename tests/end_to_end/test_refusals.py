"""Folders of the kinds that people have: served, or refused in one sentence, at the start and by `POST /models` alike."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, BertTokenizer

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "wonderful", "terrible", "film", "word")
LABELS = {0: "no", 1: "yes"}
SAFETY_S = 60


def make_bert(folder: Path, **fields: object) -> Path:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=10, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, initializer_range=0.5, id2label=LABELS, label2id={name: i for i, name in LABELS.items()},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    edit(folder / "config.json", **fields)
    return folder


def edit(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def make_adapter(folder: Path, *, base: Path | None, **fields: object) -> Path:
    source = make_bert(folder.parent / f"{folder.name}-base")
    model = AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.normal_(std=0.5)
    model.save_pretrained(folder)
    edit(folder / "adapter_config.json", base_model_name_or_path=str(base or f"../{source.name}"), **fields)
    return folder


def without_words(folder: Path) -> Path:
    make_bert(folder)
    (folder / "vocab.txt").unlink()
    return folder


def of_images(folder: Path) -> Path:
    make_bert(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    return folder


def of_another_adapter(folder: Path) -> Path:
    make_adapter(folder, base=None)
    make_bert(folder.parent / f"{folder.name}-base", num_hidden_layers=1)
    return folder


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "words": (without_words, "no tokenizer.json, and config.json names no tokenizer_name"),
    "images": (of_images, "config.json: ViTConfig has no class for AutoModelForSequenceClassification"),
    "pages": (lambda folder: make_bert(folder, model_type="layoutlmv3"), "takes bbox, the place of each word on a page"),
    "quantized": (
        lambda folder: make_bert(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
        "config.json: quantization_config: weights quantized by gptq need the package gptqmodel",
    ),
    "labels": (lambda folder: make_bert(folder, id2label={"1": "no", "2": "yes"}), "config.json: id2label names [1, 2]"),
    "tokens": (
        lambda folder: make_bert(folder, architectures=["BertForTokenClassification"]),
        "config.json: saved by BertForTokenClassification, which is no text classifier",
    ),
    "negative": (lambda folder: make_bert(folder, intermediate_size=-4), "model.safetensors: "),
    "prompt": (
        lambda folder: make_adapter(folder, base=None, peft_type="P_TUNING"),
        "adapter_config.json: an adapter of peft_type P_TUNING can't be merged",
    ),
    "stranger": (of_another_adapter, "this adapter was trained on another model"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


@pytest.fixture(scope="module")
def folders(root: Path) -> Mapping[str, Path]:
    return {name: make(root / name) for name, (make, _) in REFUSED.items()}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_start_ends_with_one_sentence(kind: str, folders: Mapping[str, Path], launch: Callable[..., tuple[int, str]]) -> None:
    code, log = launch({kind: folders[kind]})
    lines = [json.loads(line) for line in log.splitlines()]
    assert code == 2, log
    assert (lines[-1]["level"], lines[-1]["logger"]) == ("error", "valence")
    assert REFUSED[kind][1] in lines[-1]["message"]
    assert str(folders[kind].parent) in lines[-1]["message"]
    assert "\n" not in lines[-1]["message"]
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def served(root: Path, start_server: Callable[..., Any]) -> Any:
    return start_server("--model-roots", str(root), "--admin-key", "adm1n")


def put(served: Any, name: str, path: Path) -> httpx.Response:
    headers = {"authorization": "Bearer adm1n"}
    return served.client.post("/models", json={"name": name, "path": str(path)}, headers=headers, timeout=SAFETY_S)


@pytest.mark.parametrize("kind", REFUSED)
def test_the_same_is_422_while_the_service_runs(kind: str, folders: Mapping[str, Path], served: Any, root: Path) -> None:
    answer = put(served, kind, folders[kind])
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation"), answer.text
    assert REFUSED[kind][1] in answer.json()["error"]
    assert str(root) not in answer.text
    assert "\n" not in answer.json()["error"]


def test_an_adapter_is_served_merged(served: Any, root: Path) -> None:
    folder = make_adapter(root / "adapter", base=None)
    answer = put(served, "adapter", folder)
    assert answer.status_code == 201, answer.text
    base = AutoModelForSequenceClassification.from_pretrained(root / "adapter-base", dtype=torch.float32)
    tokens = BertTokenizer.from_pretrained(root / "adapter-base")("a wonderful film", return_tensors="pt")
    with torch.no_grad():
        expected = PeftModel.from_pretrained(base, folder).eval()(**tokens).logits.softmax(-1)[0]
    scores = {item["label"]: item["score"] for item in served.predict("a wonderful film", model="adapter").json()}
    assert scores == pytest.approx({"no": expected[0].item(), "yes": expected[1].item()}, abs=1e-5)


@pytest.mark.parametrize("base", ["/etc", "acme/base", "../../elsewhere"])
def test_a_base_lies_in_the_roots_too(base: str, served: Any, root: Path) -> None:
    folder = make_adapter(root / f"away-{len(base)}", base=Path(base))
    answer = put(served, "away", folder)
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")
    assert answer.json()["error"].startswith("path: the base that this adapter names must be a folder in one of the service's")


def test_it_stops_cleanly(served: Any) -> None:
    served.process.terminate()
    served.assert_stopped_cleanly()
