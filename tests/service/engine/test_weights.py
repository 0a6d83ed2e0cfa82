"""A model in memory has the weights of its files, or the one who serves it is told."""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from service.engine.weights import load_model
from service.served.catalog import CatalogError, ServedModel, load_catalog, weights_digest
from service.settings import Settings

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "wonderful", "terrible", "film", "word")
SIZES = {"vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
         "initializer_range": 0.5, "pad_token_id": 0}  # fmt: skip
IDS = torch.tensor([[2, 5, 6, 8, 3]])


class ScaledLinear(nn.Linear):
    """With a buffer that no file holds: transformers initialises a module that has one again."""

    def __init__(self, width: int, labels: int) -> None:
        super().__init__(width, labels)
        self.register_buffer("scale", torch.ones(1), persistent=False)


class RedrawingConfig(PreTrainedConfig):
    model_type = "redrawing"
    vocab_size: int = 10
    hidden_size: int = 8


class RedrawingForSequenceClassification(PreTrainedModel):
    """Draws its weights past every guard of transformers."""

    config_class = RedrawingConfig
    base_model_prefix = "redrawing"

    def __init__(self, config: RedrawingConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.classifier = ScaledLinear(config.hidden_size, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_()
        if isinstance(module, ScaledLinear):
            module.scale.data.fill_(1.0)

    def forward(self, input_ids: torch.Tensor, **kwargs: object) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.classifier(self.embeddings(input_ids).mean(1)))


AutoConfig.register("redrawing", RedrawingConfig, exist_ok=True)
AutoModelForSequenceClassification.register(RedrawingConfig, RedrawingForSequenceClassification, exist_ok=True)


def add_words(folder: Path) -> Path:
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}), encoding="utf-8")
    return folder


def save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return add_words(folder)


def served(folder: Path, **fields: object) -> ServedModel:
    return load_catalog(Settings(models=(f"m={folder}",), **fields))[0]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return load_model(served(folder), dtype=dtype, trust_remote_code=False).eval()


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [line.getMessage() for line in caplog.records if line.name == "valence.worker"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_is_drawn_anew_gets_the_value_of_the_file(
    dtype: torch.dtype, tmp_path: Path, warned: Callable[[], list[str]]
) -> None:
    torch.manual_seed(0)
    original = RedrawingForSequenceClassification(RedrawingConfig()).eval()
    loaded = load(save(original, tmp_path), dtype)
    assert torch.equal(loaded.classifier.weight, original.classifier.weight.to(dtype))
    assert torch.equal(loaded.embeddings.weight, original.embeddings.weight.to(dtype))
    (line,) = warned()
    assert "RedrawingForSequenceClassification draws classifier.weight anew" in line
    assert "the values of the file were put back" in line


def test_weights_that_are_read_right_are_passed_in_silence(
    checkpoints: Mapping[str, Path], settings_of: Callable[..., Settings], warned: Callable[[], list[str]]
) -> None:
    for model in load_catalog(settings_of()):
        load_model(model, dtype=torch.bfloat16, trust_remote_code=False)
    assert warned() == []


def test_a_weight_that_is_no_number_is_left_as_it_is(tmp_path: Path, warned: Callable[[], list[str]]) -> None:
    save(BertForSequenceClassification(BertConfig(**SIZES)), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.weight"][0, 0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert load(tmp_path).classifier.weight[0, 0].isnan()
    assert warned() == []


def test_a_weight_under_another_name_in_the_file_is_held_against_it(
    tmp_path: Path, warned: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """BERT's norms were once saved as gamma and beta, which transformers renames."""
    model = BertForSequenceClassification(BertConfig(**SIZES))
    save(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["bert.embeddings.LayerNorm.gamma"] = weights.pop("bert.embeddings.LayerNorm.weight") + 1
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    right = AutoModelForSequenceClassification.from_pretrained

    def spoiled(*arguments: object, **options: object) -> object:
        loaded, found = right(*arguments, **options)
        loaded.bert.embeddings.LayerNorm.weight.data.normal_()
        return loaded, found

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", spoiled)
    assert torch.equal(load(tmp_path).bert.embeddings.LayerNorm.weight, weights["bert.embeddings.LayerNorm.gamma"])
    assert "draws bert.embeddings.LayerNorm.gamma anew" in warned()[0]


def test_a_tensor_that_became_nothing_is_told(tmp_path: Path, warned: Callable[[], list[str]]) -> None:
    save(BertForSequenceClassification(BertConfig(**SIZES)), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"extra.a": torch.ones(2), "extra.b": torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    load(tmp_path)
    (line,) = warned()
    assert "extra.a and 1 more tensors are in the file and not in BertForSequenceClassification" in line


def test_weights_in_several_files_are_held_against_each(tmp_path: Path, warned: Callable[[], list[str]]) -> None:
    model = BertForSequenceClassification(BertConfig(**SIZES))
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded = load(add_words(tmp_path))
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
    assert warned() == []


def test_whatever_a_class_raises_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(RedrawingForSequenceClassification(RedrawingConfig()), tmp_path)
    model = served(tmp_path)
    monkeypatch.setattr(nn, "Embedding", lambda *sizes: sizes.width)
    with pytest.raises(
        CatalogError, match=r"model.safetensors: AttributeError: 'tuple' object has no attribute 'width'"
    ) as caught:
        load_model(model, dtype=torch.float32, trust_remote_code=False)
    assert "\n" not in str(caught.value)


# -- adapters ---------------------------------------------------------------------------------------------------------------


MODELS = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**SIZES)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**SIZES, max_position_embeddings=40)),
    "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**SIZES)),
}
TARGETS = {"bert": ["query", "value"], "roberta": ["query", "key"], "llama": ["q_proj", "down_proj"]}


@pytest.fixture(params=MODELS)
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_adapter(tmp_path, request.param)


def make_adapter(root: Path, kind: str, *, labels: int = 3, with_tokenizer: bool = False, **fields: object) -> Path:
    """A folder of an adapter with weights of its own, for a base of two labels in the folder beside it."""
    torch.manual_seed(0)
    save(MODELS[kind](), root / "base")
    base = AutoModelForSequenceClassification.from_pretrained(
        root / "base", num_labels=labels, ignore_mismatched_sizes=True, dtype=torch.float32
    )
    options = {"task_type": "SEQ_CLS", "r": 4, "lora_alpha": 16, "target_modules": TARGETS[kind], **fields}
    model = get_peft_model(base, LoraConfig(**options))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.normal_(std=0.3)
    model.save_pretrained(root / "adapter")
    if with_tokenizer:
        add_words(root / "adapter")
    point_at(root / "adapter", "../base")
    return root / "adapter"


def point_at(folder: Path, base: str | None, **fields: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base} | fields))


def unmerged(adapter: Path, labels: int) -> torch.Tensor:
    """What peft itself computes."""
    base = AutoModelForSequenceClassification.from_pretrained(
        adapter.parent / "base", num_labels=labels, ignore_mismatched_sizes=True, dtype=torch.float32
    )
    with torch.no_grad():
        return PeftModel.from_pretrained(base, adapter).eval()(input_ids=IDS).logits


def test_an_adapter_scores_as_peft_does(adapter: Path) -> None:
    model = served(adapter)
    assert model.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert (model.base, model.tokenizer_path) == ((adapter.parent / "base").resolve(), (adapter.parent / "base").resolve())
    with torch.no_grad():
        logits = load(adapter)(input_ids=IDS).logits
    torch.testing.assert_close(logits, unmerged(adapter, 3), rtol=0, atol=1e-5)


def test_a_merged_model_is_rounded_as_a_saved_one_would_be(adapter: Path, tmp_path: Path) -> None:
    save(load(adapter), tmp_path / "merged")
    found, expected = load(adapter, torch.bfloat16), load(tmp_path / "merged", torch.bfloat16)
    for (name, one), (_, other) in zip(tensors(found), tensors(expected), strict=True):
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), name
    with torch.no_grad():
        assert torch.equal(found(input_ids=IDS).logits, expected(input_ids=IDS).logits)


def tensors(model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


@pytest.mark.parametrize("fields", [{"use_rslora": True}, {"use_dora": True}, {"bias": "all"}, {"fan_in_fan_out": False}])
def test_kinds_of_lora_score_as_peft_does(fields: dict[str, object], tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path, "bert", **fields)
    with torch.no_grad():
        logits = load(adapter)(input_ids=IDS).logits
    torch.testing.assert_close(logits, unmerged(adapter, 3), rtol=0, atol=1e-5)


def test_an_adapter_has_the_names_of_its_base_where_the_count_agrees(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path, "bert", labels=2)
    config = tmp_path / "base" / "config.json"
    names = {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}
    config.write_text(json.dumps(json.loads(config.read_text()) | names))
    assert served(adapter).labels == ("no", "yes")


def test_an_adapter_without_its_head_is_refused(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path, "bert", labels=2)
    file = adapter / "adapter_model.safetensors"
    save_file({name: weight for name, weight in load_file(file).items() if "classifier" not in name}, file)
    with pytest.raises(CatalogError, match=r"adapter_model.safetensors: no 'base_model.model.classifier.weight' in it"):
        load(adapter)


def test_the_base_of_a_language_model_has_no_head(tmp_path: Path, warned: Callable[[], list[str]]) -> None:
    adapter = make_adapter(tmp_path, "llama")
    file = tmp_path / "base" / "model.safetensors"
    weights = load_file(file)
    del weights["score.weight"]
    save_file(weights | {"lm_head.weight": torch.ones(10, 16)}, file, {"format": "pt"})
    with torch.no_grad():
        logits = load(adapter)(input_ids=IDS).logits
    torch.testing.assert_close(logits, unmerged(adapter, 3), rtol=0, atol=1e-5)
    assert warned() == []


def test_an_adapters_own_tokenizer_is_taken(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path, "bert", with_tokenizer=True)
    assert served(adapter).tokenizer_path == adapter.resolve()
    assert len(AutoTokenizer.from_pretrained(adapter)) == len(WORDS)


def test_the_digest_of_an_adapter_is_of_its_base_too(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path, "bert")
    before = served(adapter)
    assert before.weights == weights_digest(*before.folders)
    weights = load_file(tmp_path / "base" / "model.safetensors")
    save_file(weights | {"classifier.bias": torch.ones(2)}, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    assert served(adapter).weights != before.weights


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path, "bert")
    shutil.rmtree(tmp_path / "base")
    save(BertForSequenceClassification(BertConfig(**{**SIZES, "num_hidden_layers": 1})), tmp_path / "base")
    with pytest.raises(CatalogError, match=r"adapter_model.safetensors: base_model.*layer.1.* does not fit .*base; this adapter"):
        load(adapter)


def refusal(folder: Path, **fields: object) -> str:
    with pytest.raises(CatalogError) as caught:
        served(folder, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("base", "fields", "said"),
    [
        ("../gone", {}, "its base_model_name_or_path ../gone is not there"),
        (None, {}, "base_model_name_or_path names no model"),
        ("../base", {"task_type": "CAUSAL_LM"}, "an adapter for task_type CAUSAL_LM, and only SEQ_CLS"),
        ("../base", {"peft_type": "PROMPT_TUNING"}, "peft_type PROMPT_TUNING can't be merged"),
        (".", {}, "is an adapter too"),
    ],
    ids=["gone", "none", "task", "prompt", "adapter of an adapter"],
)
def test_an_adapter_that_can_not_be_served(base: str, fields: dict[str, object], said: str, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path, "bert")
    point_at(adapter, base, **fields)
    message = refusal(adapter)
    assert message.startswith(f"{adapter.resolve()}/adapter_config.json: ")
    assert said in message


def test_pickled_weights_of_an_adapter_are_refused(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path, "bert")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "no adapter_model.safetensors; pickled weights are not loaded" in refusal(adapter)


def test_an_adapter_beside_a_whole_checkpoint_is_refused(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path, "bert")
    shutil.copy(tmp_path / "base" / "model.safetensors", adapter)
    assert "a whole checkpoint lies beside it" in refusal(adapter)


def test_a_base_that_can_not_be_served_is_named(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path, "bert")
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "base" / "pytorch_model.bin")
    assert refusal(adapter).startswith(f"{(tmp_path / 'base').resolve()}: no *.safetensors file")


def test_without_peft_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = make_adapter(tmp_path, "bert")
    monkeypatch.setattr("service.served.adapter.find_spec", {}.get)
    assert refusal(adapter).endswith("serving an adapter needs the extra: pip install 'valence[peft]'")


def test_an_adapter_is_not_served_in_int8(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path, "bert")
    assert "--dtype int8 is not for an adapter" in refusal(adapter, dtype="int8")


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
