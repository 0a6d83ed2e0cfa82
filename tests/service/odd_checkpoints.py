"""Checkpoints of odd kinds that people have on disk, made of tiny parts.

`SERVED` and `REFUSED` are functions by name, each of which writes one into a folder. `REFUSED` are those that can't be served, in
whole or for the lack of a package. `reference_logits` and `reference_scores` are what transformers itself gives.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer

from models.tiny.checkpoints import make
from service.measure.reference import FloatArray, Reference, Text, scores

# The model of `not_a_number` gives NaN for a text that holds it.
POISON = "poison"
LORA_RANK, LORA_ALPHA = 4, 8
Write = Callable[[Path], None]


def reference_logits(folder: Path, texts: Sequence[Text], *, max_length: int | None = None) -> FloatArray:
    """(texts, labels): `AutoTokenizer` and the plain model in float32, each text alone."""
    return Reference(folder).logits(texts, max_length=max_length)


def reference_scores(folder: Path, texts: Sequence[Text], *, max_length: int | None = None) -> FloatArray:
    """(texts, labels): those logits by the rules of transformers' pipeline."""
    return scores(reference_logits(folder, texts, max_length=max_length), AutoConfig.from_pretrained(folder))


def tiny(architecture: str, folder: Path, **fields: Any) -> None:
    """As `python -m models.tiny` makes it, with fields of the configuration as given."""
    make(architecture, folder, **fields)


def changed(folder: Path, file: str, changes: Mapping[str, Any]) -> None:
    """Fields of a JSON file as given, and without those that are None."""
    path = folder / file
    fields = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}), encoding="utf-8")


def vocabulary_of(folder: Path) -> dict[str, Any]:
    """The model of tokenizer.json, which is removed."""
    path = folder / "tokenizer.json"
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    path.unlink()
    return model


def vocab_txt(folder: Path) -> None:
    """BERT's vocabulary as a list of words, beside no other file of a tokenizer."""
    make("bert", folder)
    vocabulary = vocabulary_of(folder)["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").unlink()


def vocab_and_merges(folder: Path, *, architecture: str = "roberta") -> None:
    """A byte-level BPE in the two files that GPT-2 and RoBERTa came with."""
    make(architecture, folder)
    model = vocabulary_of(folder)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")


def quantized(folder: Path, *, quantization_config: Mapping[str, Any]) -> None:
    """A BERT whose configuration asks for weights that need another package."""
    make("bert", folder)
    changed(folder, "config.json", {"quantization_config": quantization_config})


def without_limit(folder: Path) -> None:
    """A RoBERTa whose tokenizer says no limit, with a table of positions of which two can't be used."""
    make("roberta", folder, max_position_embeddings=514)
    changed(folder, "tokenizer_config.json", {"model_max_length": None})


def sentencepiece_model(folder: Path) -> None:
    """A T5 with the file that the sentencepiece library writes, written here by its format alone."""
    from transformers.utils import sentencepiece_model_pb2_new as formats

    make("t5", folder)
    special = {"<unk>": 2, "<pad>": 3, "</s>": 3}
    pieces = [
        formats.ModelProto.SentencePiece(piece=piece, score=score, type=special.get(piece, 1))
        for piece, score in vocabulary_of(folder)["vocab"]
        if not piece.startswith("<extra_id_")
    ]
    proto = formats.ModelProto(pieces=pieces)
    proto.trainer_spec.unk_id = next(place for place, piece in enumerate(pieces) if piece.piece == "<unk>")
    (folder / "spiece.model").write_bytes(proto.SerializeToString())


def not_a_number(folder: Path) -> None:
    """A BERT whose embedding of one word is NaN."""
    make("bert", folder)
    token = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(POISON)
    weights = load_file(folder / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"][token] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def adapter(folder: Path) -> None:
    """A LoRA adapter of a BERT, as peft saves it, with its own head. Its base lies beside it in `<folder>-base`, both in
    one in `<folder>-merged`."""
    base, merged = folder.with_name(folder.name + "-base"), folder.with_name(folder.name + "-merged")
    make("bert", base)
    copytree(base, merged, dirs_exist_ok=True)
    weights = load_file(base / "model.safetensors")
    random = torch.Generator().manual_seed(0)
    saved = {}
    for name in [name for name in weights if name.endswith((".query.weight", ".value.weight"))]:
        rows, columns = weights[name].shape
        down = torch.randn(LORA_RANK, columns, generator=random) * 0.3
        up = torch.randn(rows, LORA_RANK, generator=random) * 0.3
        module = "base_model.model." + name.removesuffix(".weight")
        saved |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
        weights[name] = weights[name] + LORA_ALPHA / LORA_RANK * up @ down
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = torch.randn(weights[name].shape, generator=random)
        saved[f"base_model.model.{name}"] = weights[name].clone()
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    folder.mkdir(exist_ok=True)
    save_file(saved, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "base_model_name_or_path": str(base), "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "lora_alpha": LORA_ALPHA, "lora_dropout": 0.1, "modules_to_save": ["classifier", "score"], "peft_type": "LORA",
        "r": LORA_RANK, "target_modules": ["query", "value"], "task_type": "SEQ_CLS", "use_dora": False, "use_rslora": False,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


BITSANDBYTES = {
    "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_compute_dtype": "float16",
    "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
}  # fmt: skip
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
SERVED: dict[str, Write] = {
    "one_label": partial(tiny, "bert", num_labels=1),
    "regression": partial(tiny, "bert", num_labels=1, problem_type="regression"),
    "multi_label": partial(tiny, "bert", num_labels=4, problem_type="multi_label_classification"),
    "vocab_txt": vocab_txt,
    "vocab_and_merges": vocab_and_merges,
    "vocab_and_merges_gpt2": partial(vocab_and_merges, architecture="gpt2"),
    "without_limit": without_limit,
    "not_a_number": not_a_number,
    "adapter": adapter,
    **{
        name: partial(tiny, name)
        for name in ("gpt2", "bart", "t5", "convbert", "fnet", "big_bird", "reformer", "xlnet", "canine", "gemma2", "gemma3")
    },
}
REFUSED: dict[str, Write] = {
    "bitsandbytes": partial(quantized, quantization_config=BITSANDBYTES),
    "gptq": partial(quantized, quantization_config=GPTQ),
    "awq": partial(quantized, quantization_config=AWQ),
    "layoutlmv3": partial(tiny, "layoutlmv3"),
    "perceiver": partial(tiny, "perceiver"),
}
(SERVED if find_spec("sentencepiece") else REFUSED)["sentencepiece_model"] = sentencepiece_model
