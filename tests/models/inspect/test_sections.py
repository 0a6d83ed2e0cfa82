"""Each section over every architecture, and what each must find."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.custom_bert import CustomBertPreTrainedModel
from models.inspect import SECTIONS, Options, Section, Subject, attention, gradients, initialisation, memory, parameters
from models.inspect.sections import reports
from models.inspect.throughput import Cost, flops

SubjectOf = Callable[[str], Subject]


def rows(section: Section) -> list[dict[str, Any]]:
    return section.as_json()["rows"]  # type: ignore[return-value]


def altered(subject: Subject, change: Callable[[torch.nn.Module], None]) -> Subject:
    """The subject with a changed copy of its model."""
    model = copy.deepcopy(subject.model)
    with torch.no_grad():
        change(model)
    return replace(subject, model=model)


@pytest.mark.parametrize("name", [name for name in SECTIONS if name != "throughput"])
def test_every_section_speaks_of_every_architecture(subject: Subject, name: str) -> None:
    section = SECTIONS[name](subject, Options())
    assert section.notes
    assert all(len(row) == len(section.columns) for row in section.rows)
    assert section.as_text().startswith(f"{name}\n---")
    json.dumps(section.as_json())


def test_parameters_are_those_of_the_model(subject: Subject) -> None:
    whole, *others = rows(parameters(subject, depth=1))
    total = sum(parameter.numel() for parameter in subject.model.parameters())
    assert (whole["module"], whole["parameters"], whole["%"]) == ("model", total, 100)
    assert sum(row["parameters"] for row in others) == total


def test_memory_is_what_the_weights_take(subject: Subject) -> None:
    found = {row["dtype"]: row["bytes"] for row in rows(memory(subject))}
    for name in ("float32", "bfloat16", "float16"):
        model = copy.deepcopy(subject.model).to(getattr(torch, name))
        assert found[name] == sum(one.numel() * one.element_size() for one in (*model.parameters(), *subject.model.buffers()))


def test_int8_takes_a_quarter_of_a_wide_layer(subject_of: SubjectOf) -> None:
    def widen(model: Any) -> None:
        model.classifier = torch.nn.Linear(640, 640)

    found = {row["dtype"]: row["bytes"] for row in rows(memory(altered(subject_of("tiny-bert"), widen)))}
    saved = found["float32"] - found["int8"]
    assert 0.95 * 3 * 640 * 640 < saved < 3 * 640 * 640


class TestGradients:
    def test_a_healthy_model_has_no_flag(self, subject_of: SubjectOf) -> None:
        assert {row["flag"] for row in rows(gradients(subject_of("bert")))} == {""}

    def test_they_are_those_of_the_loss(self, subject_of: SubjectOf) -> None:
        subject = subject_of("tiny-bert")
        texts, labels = ("good", "a terrible film"), (2, 0)
        found = {row["layer"]: row for row in rows(gradients(subject, texts=texts, labels=labels))}
        model = copy.deepcopy(subject.model)
        logits = model(**subject.batch(texts)).logits
        torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
        flat = torch.cat([model.classifier.weight.grad.flatten(), model.classifier.bias.grad])
        assert found["classifier"]["norm"] == pytest.approx(float(flat.norm()), rel=1e-4)
        assert found["classifier"]["rms"] == pytest.approx(float(flat.square().mean().sqrt()), rel=1e-4)
        assert all(parameter.grad is None for parameter in subject.model.parameters())

    def test_a_layer_that_gets_none_is_dead(self, subject_of: SubjectOf) -> None:
        def cut(model: Any) -> None:
            model.bert.encoder.layer[0].output.dense.weight.zero_()  # what lies before it in the branch has no way to the loss

        found = {row["layer"]: row["flag"] for row in rows(gradients(altered(subject_of("tiny-bert"), cut)))}
        assert {layer for layer, flag in found.items() if flag} == {"bert.encoder.layer.0.intermediate.dense"}
        assert found["bert.encoder.layer.0.intermediate.dense"] == "dead"

    def test_a_layer_far_above_the_others_explodes(self, subject_of: SubjectOf) -> None:
        def shrink(model: Any) -> None:
            model.classifier.weight *= 1e-6  # what lies below gets a millionth, the classifier what it got

        found = {row["layer"]: row["flag"] for row in rows(gradients(altered(subject_of("bert"), shrink)))}
        assert {layer for layer, flag in found.items() if flag == "exploding"} == {"classifier"}

    def test_a_gradient_that_is_no_number_explodes(self, subject_of: SubjectOf) -> None:
        def poison(model: Any) -> None:
            model.classifier.bias.fill_(math.nan)

        assert {row["flag"] for row in rows(gradients(altered(subject_of("tiny-lstm"), poison)))} == {"exploding"}

    def test_a_label_that_there_is_not_is_refused(self, subject_of: SubjectOf) -> None:
        with pytest.raises(ValueError, match=r"from 0 to 2; found \[3\]"):
            gradients(subject_of("tiny-bert"), texts=("good",), labels=(3,))


class TestInitialisation:
    @pytest.mark.parametrize("name", ["tiny-bert", "conv", "sparse", "keyword", "bert", "roberta", "distilbert"])
    def test_fresh_weights_are_as_the_configuration_asks(self, subject_of: SubjectOf, name: str) -> None:
        found = rows(initialisation(subject_of(name)))
        assert {row["verdict"] for row in found} <= {"as asked", "own rule"}
        assert any(row["tensor"].endswith("[padding]") for row in found)

    def test_an_lstm_starts_orthogonal_with_forget_gates_open(self, subject_of: SubjectOf) -> None:
        found = {row["tensor"]: row for row in rows(initialisation(subject_of("tiny-lstm")))}
        assert {row["verdict"] for row in found.values()} == {"as asked"}
        assert found["lstm.encoder.lstm.weight_hh_l0"]["asked"] == "orthogonal"
        assert found["lstm.encoder.lstm.bias_ih_l0[forget]"]["asked"] == "1"

    def test_another_spread_than_asked_is_told(self, subject_of: SubjectOf, monkeypatch: pytest.MonkeyPatch) -> None:
        subject = subject_of("tiny-bert")
        original = CustomBertPreTrainedModel._init_weights

        def too_wide(model: Any, module: torch.nn.Module) -> None:
            original(model, module)
            if isinstance(module, torch.nn.Linear):
                module.weight.data *= 1.5

        monkeypatch.setattr(CustomBertPreTrainedModel, "_init_weights", too_wide)
        found = {row["tensor"]: row["verdict"] for row in rows(initialisation(subject))}
        assert found["bert.encoder.layer.*.intermediate.dense.weight"] == "differs in 2"
        assert found["bert.embeddings.word_embeddings.weight"] == "as asked"

    def test_how_far_the_weights_came_is_measured(self, subject_of: SubjectOf) -> None:
        def train(model: Any) -> None:
            model.bert.pooler.dense.weight *= 3
            model.bert.embeddings.LayerNorm.weight += 0.25

        found = {row["tensor"]: row for row in rows(initialisation(altered(subject_of("tiny-bert"), train)))}
        assert found["bert.pooler.dense.weight"]["moved"] == pytest.approx(3, rel=0.1)
        assert found["bert.embeddings.LayerNorm.weight"]["moved"] == pytest.approx(0.25)
        assert found["bert.encoder.layer.*.intermediate.dense.weight"]["moved"] == pytest.approx(1, rel=0.1)


class TestAttention:
    @pytest.mark.parametrize("name", ["tiny-lstm", "conv", "keyword"])
    def test_without_attention_a_sentence_says_so(self, subject_of: SubjectOf, name: str) -> None:
        section = attention(subject_of(name))
        assert not section.rows
        assert section.notes == [f"{type(subject_of(name).model).__name__} has no attention to show."]

    @pytest.mark.parametrize("name", ["tiny-bert", "bert", "distilbert"])
    def test_shares_are_those_of_the_maps(self, subject_of: SubjectOf, name: str) -> None:
        subject = subject_of(name)
        found = rows(attention(subject, text="not good at all"))
        model = copy.deepcopy(subject.model)
        model.set_attn_implementation("eager")
        maps = model(**subject.batch(["not good at all"]), output_attentions=True).attentions
        assert len(found) == len(maps)
        for row, layer in zip(found, maps, strict=True):
            probabilities = layer[0].detach().double()
            assert row["heads"] == len(probabilities)
            assert row["to first"] == pytest.approx(float(probabilities[:, :, 0].mean()))
            own = torch.eye(probabilities.shape[-1], dtype=torch.bool)
            assert row["to itself"] == pytest.approx(float(probabilities[:, own].mean()))

    def test_a_pattern_keeps_no_map(self, subject_of: SubjectOf) -> None:
        section = attention(subject_of("sparse"))
        assert [(row["layer"], row["heads"]) for row in rows(section)] == [(1, 4)]
        assert section.notes[1] == "1 of 2 layers keep no map: they have an attention pattern."

    @pytest.mark.parametrize("name", ["tiny-bert", "sparse"])
    def test_it_is_drawn(self, subject_of: SubjectOf, name: str, tmp_path: Path) -> None:
        attention(subject_of(name), picture=tmp_path / "attention.png")
        assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_operations_are_counted_by_hand(subject_of: SubjectOf) -> None:
    subject = subject_of("keyword")
    batch = subject.batch(["not good at all"])
    length, width = batch["input_ids"].shape[1], subject.model.config.hidden_size
    by_hand = 2 * length * width + 2 * length * width + 2 * width * subject.model.config.num_labels
    assert flops(subject, batch) == by_hand


def test_an_lstms_operations_are_two_for_each_weight_and_token(subject_of: SubjectOf) -> None:
    subject = subject_of("tiny-lstm")
    batch = subject.batch(["not good at all"])
    lstm = subject.model.lstm.encoder.lstm
    weights = sum(one.numel() for name, one in lstm.named_parameters() if name.startswith("weight"))
    assert flops(subject, batch) >= 2 * weights * batch["input_ids"].shape[1]


def test_an_estimate_is_labelled(subject_of: SubjectOf) -> None:
    section = SECTIONS["throughput"](subject_of("keyword"), Options())
    assert {row["how"] for row in rows(section)} == {"measured", "estimate"}
    assert all(row["tokens/s"] > 0 for row in rows(section))
    assert Cost(2e6, 0.1).row("x", "estimate", 1e6) == ("x", "estimate", 1e6, 1e5, 2.0, None)


def test_a_section_that_a_model_does_not_bear_says_so_and_the_others_go_on(
    subject_of: SubjectOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = replace(subject_of("tiny-bert"), model=copy.deepcopy(subject_of("tiny-bert").model))

    def refuse(*inputs: object, **named: object) -> None:
        raise RuntimeError("no padding here\nand more")

    monkeypatch.setattr(subject.model, "forward", refuse)
    first, second = reports(subject, ("gradients", "parameters"), Options())
    assert first.notes == ["Not possible with CustomBertForSequenceClassification: RuntimeError: no padding here"]
    assert second.rows
