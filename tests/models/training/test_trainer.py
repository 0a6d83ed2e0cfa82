"""The options of a training run: each does what it says, on real runs of the Trainer with tiny models."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, TrainingArguments

from models.custom_bert import CustomBertConfig
from models.gated_conv import GatedConvConfig
from models.registration import register_architectures
from models.sentiment_lstm import SentimentLstmConfig
from models.training.data import Example
from models.training.layers import depths, freeze, parameter_groups
from models.training.packing import collate_packs
from models.training.trainer import (
    ClassifierTrainer,
    Runtime,
    Schedule,
    collator,
    encode,
    fine_tune,
    training_arguments,
    weigh_classes,
)

register_architectures()

ROOT = Path(__file__).parents[3]
WORDS = (("bad", "awful", "sad"), ("table", "monday", "road"), ("good", "great", "happy"))
EXAMPLES = [
    Example(" ".join(WORDS[label][(label + place) % 3] for place in range(1 + number % 5)), label, "made")
    for number in range(24)
    for label in range(3)
]
SCHEDULE = Schedule(epochs=1, learning_rate=1e-2, batch_size=16, evaluations_per_epoch=1)
TINY = {"vocab_size": 12_000, "hidden_size": 16, "num_labels": 3}
BERT = CustomBertConfig(
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.2,
    **TINY,
)
CONV = GatedConvConfig(num_hidden_layers=2, embedding_size=16, embedding_dropout=0.0, hidden_dropout_prob=0.0, **TINY)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ROOT / "tokenizers_store" / "sentiment-lstm")


def build(config) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config)


def trained(model, tokenizer, folder: Path, *, schedule: Schedule = SCHEDULE, **runtime) -> PreTrainedModel:
    return fine_tune(
        model, tokenizer, train=EXAMPLES, dev=EXAMPLES[:12], schedule=schedule, runtime=Runtime(folder, cpu=True, **runtime)
    )


def unevaluated(runtime: Runtime) -> TrainingArguments:
    return training_arguments(SCHEDULE, runtime, rows=8, eval_strategy="no", load_best_model_at_end=False)


class TestDepths:
    @pytest.mark.parametrize(
        ("config", "below", "above"),
        [(BERT, "bert.embeddings", ("bert.pooler", "classifier")), (CONV, "encoder.embeddings", ("encoder.norm", "classifier"))],
        ids=["bert", "conv"],
    )
    def test_embeddings_lie_below_the_layers_and_the_head_above(self, config, below, above):
        found = depths(build(config))
        assert {depth for name, depth in found.items() if name.startswith(below)} == {0}
        assert {depth for name, depth in found.items() if name.startswith(above)} == {3}
        assert {depth for name, depth in found.items() if ".1." in name} == {2}

    def test_a_rate_for_each_depth_and_every_parameter_once(self):
        model = build(BERT)
        decayed = [name for name, _ in model.named_parameters() if name.endswith("weight")]
        groups = parameter_groups(model, learning_rate=1.0, layer_decay=0.5, weight_decay=0.1, decayed=decayed)
        assert sorted({group["lr"] for group in groups}) == [0.125, 0.25, 0.5, 1.0]
        grouped = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(grouped) == sorted(map(id, model.parameters()))
        assert {group["weight_decay"] for group in groups for p in group["params"] if p is model.classifier.bias} == {0.0}

    def test_a_model_without_a_list_of_layers_is_refused(self):
        with pytest.raises(ValueError, match=r"SentimentLstmForSequenceClassification keeps no nn\.ModuleList of layers"):
            freeze(build(SentimentLstmConfig(embedding_size=16, **TINY)), 1)

    def test_more_layers_than_there_are_can_not_be_frozen(self):
        with pytest.raises(ValueError, match="freeze is 3, but CustomBertForSequenceClassification has 2 layers"):
            freeze(build(BERT), 3)


class TestRun:
    def test_frozen_parameters_stay_and_the_others_learn(self, tokenizer, tmp_path):
        model = build(BERT)
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        trained(model, tokenizer, tmp_path, schedule=replace(SCHEDULE, freeze=1))
        changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
        assert changed == {name for name, depth in depths(model).items() if depth > 1}

    def test_lower_layers_move_less_where_the_rate_decays(self, tokenizer, tmp_path):
        moved = []
        for decay in (1.0, 0.1):
            model = build(BERT)
            before = model.bert.encoder.layer[0].output.dense.weight.clone()
            trained(model, tokenizer, tmp_path / str(decay), schedule=replace(SCHEDULE, layer_decay=decay))
            moved.append((model.bert.encoder.layer[0].output.dense.weight - before).norm())
        assert moved[1] < 0.2 * moved[0]

    def test_after_packed_training_the_model_takes_padded_batches_again(self, tokenizer, tmp_path):
        model = build(BERT)
        before = model.config._attn_implementation
        trained(model, tokenizer, tmp_path, attn_implementation="packed", gradient_checkpointing=True)
        assert model.config._attn_implementation == before != "packed"
        assert model(**tokenizer(["good", "a longer text"], padding=True, return_tensors="pt")).logits.isfinite().all()

    def test_bfloat16_keeps_the_weights_in_float32(self, tokenizer, tmp_path):
        model = trained(build(CONV), tokenizer, tmp_path, precision="bf16")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}

    @pytest.mark.parametrize(
        ("schedule", "runtime", "sentence"),
        [
            ({"layer_decay": 1.5}, {}, "layer_decay is 1.5, but it must be above 0 and at most 1"),
            ({"class_weights": (1.0, 2.0)}, {}, r"class_weights are \(1.0, 2.0\), but there must be 3, each above 0"),
            ({}, {"precision": "fp16"}, "precision fp16 needs a GPU"),
        ],
    )
    def test_what_can_not_be_done_is_said(self, tokenizer, tmp_path, schedule, runtime, sentence):
        with pytest.raises(ValueError, match=sentence):
            trained(build(BERT), tokenizer, tmp_path, schedule=replace(SCHEDULE, **schedule), **runtime)

    def test_packed_is_refused_where_a_class_takes_no_packs(self, tokenizer, tmp_path, monkeypatch):
        model = build(CONV)
        monkeypatch.setattr(type(model), "_supports_packed", False)
        with pytest.raises(ValueError, match="GatedConvForSequenceClassification takes no packed input"):
            trained(model, tokenizer, tmp_path, attn_implementation="packed")

    def test_compile_and_precision_reach_the_trainer(self, tmp_path):
        arguments = training_arguments(SCHEDULE, Runtime(tmp_path, compile=True, precision="bf16"), rows=10)
        assert arguments.torch_compile
        assert arguments.bf16


@pytest.mark.parametrize("config", [BERT, CONV], ids=["bert", "conv"])
def test_a_pack_has_the_loss_and_gradients_of_the_padded_batch(config, tokenizer, tmp_path):
    rows = list(encode(tokenizer, EXAMPLES[:7], max_tokens=32, teacher_logits=torch.randn(7, 3)))
    found = []
    for attention in (None, "packed"):
        runtime = Runtime(tmp_path, cpu=True, attn_implementation=attention)
        model = build(config).train()
        if attention and config is BERT:
            model.set_attn_implementation(attention)
        trainer = ClassifierTrainer(model=model, args=unevaluated(runtime), schedule=SCHEDULE)
        batch = collator(tokenizer, runtime)([dict(row) for row in rows])
        loss = trainer.compute_loss(model, dict(batch))
        loss.backward()
        found.append((loss, model.get_input_embeddings().weight.grad))
    # the same float32 products, added up in another order
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


def test_labels_stand_first_in_a_pack_and_belong_to_their_text():
    rows = [{"input_ids": [5, 6, 7], "labels": 2, "length": 3}, {"input_ids": [8], "labels": 0, "length": 1}]
    batch = collate_packs(rows)
    assert next(iter(batch)) == "labels"
    assert batch["labels"].tolist() == [0, 2]
    assert batch["input_ids"].tolist() == [[8, 5, 6, 7]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 1, 4]
    assert batch["cu_seq_lens_q"].dtype == torch.int32


class TestClassWeights:
    def test_balanced_weights_are_inverse_to_the_counts(self):
        examples = [Example("", label, "made") for label in (0, 1, 1, 2, 2, 2)]
        assert weigh_classes("balanced", examples, num_labels=3).tolist() == pytest.approx([2.0, 1.0, 2 / 3])

    def test_a_class_without_texts_can_not_be_balanced(self):
        with pytest.raises(ValueError, match="no text to learn from has label 1"):
            weigh_classes("balanced", [Example("", 0, "made"), Example("", 2, "made")], num_labels=3)

    def test_they_weigh_the_loss_in_training_alone(self, tokenizer, tmp_path):
        model = build(CONV)
        trainer = ClassifierTrainer(
            model=model,
            args=unevaluated(Runtime(tmp_path, cpu=True)),
            schedule=replace(SCHEDULE, label_smoothing=0.0),
            class_weights=torch.tensor([3.0, 1.0, 1.0]),
        )
        batch = tokenizer(["bad", "road", "good"], padding=True, return_tensors="pt") | {"labels": torch.tensor([0, 1, 2])}
        batch.pop("token_type_ids", None)
        losses = {}
        model.dropout.p = 0.0
        for mode in (True, False):
            losses[mode] = trainer.compute_loss(model.train(mode), dict(batch)).item()
        each = F.cross_entropy(model(**batch).logits, batch["labels"], reduction="none")
        assert losses[True] == pytest.approx(((3 * each[0] + each[1] + each[2]) / 5).item(), rel=1e-5)
        assert losses[False] == pytest.approx(each.mean().item(), rel=1e-5)
