"""Integrated gradients: they sum to the score's difference, and are those of a plain sum over the same way."""

import copy
from collections.abc import Callable

import pytest
import torch

from models.custom_bert.modeling_custom_bert import CustomBertEmbeddings
from models.inspect import Subject
from models.inspect.attribution import Attribution, attribute, blank_token, blanked, explainable
from models.int8 import prepare_for_inference

TEXT = "not good at all, a wonderful film"
STEPS = 256


def inputs(subject: Subject, text: str = TEXT) -> tuple[list[int], list[int]]:
    """Ids of a text and of its baseline."""
    encoded = subject.tokenizer(text, return_special_tokens_mask=True)
    return encoded["input_ids"], blanked(
        encoded["input_ids"], encoded["special_tokens_mask"], blank=blank_token(subject.tokenizer)
    )


def test_attributions_sum_to_the_difference_of_the_scores(subject: Subject) -> None:
    target = subject.model.config.num_labels - 1
    ids, baseline = inputs(subject)
    found = attribute(explainable(subject.model), ids, baseline, max_steps=STEPS, target=target)
    difference = found.score - found.baseline_score
    assert sum(found.by_token) + found.completeness_error == pytest.approx(difference, abs=1e-9)
    assert abs(found.completeness_error) <= found.tolerance
    assert found.tolerance == pytest.approx(max(0.01 * sum(map(abs, found.by_token)), 0.001))
    assert 0 < found.steps <= STEPS
    with torch.inference_mode():
        logits = subject.model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits[0]
    assert found.score == pytest.approx(float(logits[target]), abs=1e-5)


def test_special_tokens_give_nothing(subject: Subject) -> None:
    ids, baseline = inputs(subject)
    found = attribute(explainable(subject.model), ids, baseline, max_steps=8)
    assert [gave for gave, token, blank in zip(found.by_token, ids, baseline, strict=True) if token == blank] == [0.0, 0.0]
    assert any(abs(gave) > 0.001 for gave in found.by_token)


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-lstm", "roberta"])
def test_attributions_are_those_of_a_plain_sum_over_the_way(subject_of: Callable[[str], Subject], name: str) -> None:
    """The definition written out: the mean gradient at 400 midpoints, by a hook of the test's own."""
    subject = subject_of(name)
    ids, baseline = inputs(subject)
    found = attribute(explainable(subject.model), ids, baseline, max_steps=STEPS)
    layer = subject.model.get_input_embeddings()
    with torch.no_grad():
        start, end = layer(torch.tensor([baseline])), layer(torch.tensor([ids]))
    places = (torch.arange(400) + 0.5) / 400
    gradients = torch.zeros_like(end)
    for part in places.split(200):
        points = (start + part.view(-1, 1, 1) * (end - start)).requires_grad_()
        rows = torch.tensor([ids]).expand(len(part), -1)
        handle = layer.register_forward_hook(lambda _m, _i, output, points=points: points.reshape(output.shape))
        try:
            logits = subject.model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits
        finally:
            handle.remove()
        gradients += torch.autograd.grad(logits[:, found.target].sum(), points)[0].sum(0, keepdim=True)
    expected = (gradients / len(places) * (end - start)).sum(-1)[0].tolist()
    # What is missing from the sum may be missing from one token, and in float32 400 gradients lose some digits.
    assert found.by_token == pytest.approx(expected, abs=found.tolerance + 1e-3)


def test_a_text_that_says_nothing_is_explained_without_a_step(subject_of: Callable[[str], Subject]) -> None:
    ids, baseline = inputs(subject_of("tiny-bert"), " ")
    found = attribute(explainable(subject_of("tiny-bert").model), ids, baseline, max_steps=8)
    assert (found.steps, found.by_token, found.completeness_error) == (0, [0.0] * len(ids), 0.0)


@pytest.mark.parametrize("limit", [1, 2, 7, 8, 30])
def test_steps_end_at_their_limit_and_the_error_is_told(subject_of: Callable[[str], Subject], limit: int) -> None:
    subject = subject_of("tiny-bert")
    found = attribute(explainable(subject.model), *inputs(subject), max_steps=limit)
    assert 0 < found.steps <= limit
    assert sum(found.by_token) + found.completeness_error == pytest.approx(found.score - found.baseline_score, abs=1e-9)


def test_a_step_in_between_changes_nothing_for_the_model(subject: Subject) -> None:
    """A score that is computed between two steps of an explanation is what it was."""
    rows = torch.tensor([inputs(subject)[0]])
    mask = torch.ones_like(rows)
    with torch.inference_mode():
        before = subject.model(input_ids=rows, attention_mask=mask).logits
        under_way = Attribution(explainable(subject.model), *inputs(subject), max_steps=64)
    under_way.advance()
    with torch.inference_mode():
        assert torch.equal(subject.model(input_ids=rows, attention_mask=mask).logits, before)
    under_way.advance()
    assert under_way.steps >= 4


def test_the_twin_shares_weights_and_leaves_the_model_its_attention(subject_of: Callable[[str], Subject]) -> None:
    model = copy.deepcopy(subject_of("tiny-bert").model)
    prepare_for_inference(model)
    model.set_attn_implementation("packed")
    twin = explainable(model)
    assert [one.data_ptr() for one in twin.parameters()] == [one.data_ptr() for one in model.parameters()]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert (model.config._attn_implementation, twin.config._attn_implementation) == ("packed", "sdpa")
    ids, baseline = inputs(subject_of("tiny-bert"))
    fused = attribute(twin, ids, baseline, max_steps=64)
    plain = attribute(explainable(subject_of("tiny-bert").model), ids, baseline, max_steps=64)
    assert fused.by_token == pytest.approx(plain.by_token, abs=1e-4)


def test_a_model_that_does_not_read_its_embeddings_once_is_refused(subject_of: Callable[[str], Subject]) -> None:
    model = copy.deepcopy(subject_of("bert").model)
    model.get_input_embeddings = lambda: model.bert.embeddings.position_embeddings.__class__(model.config.vocab_size, 32)
    with pytest.raises(ValueError, match="reads its embedding layer 0 times"):
        attribute(explainable(model), *inputs(subject_of("bert")), max_steps=8)


def test_a_model_that_embeds_more_than_the_text_is_refused(
    subject_of: Callable[[str], Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = CustomBertEmbeddings.forward

    def padded(self: CustomBertEmbeddings, ids: torch.Tensor, *rest: torch.Tensor | None) -> torch.Tensor:
        return original(self, torch.nn.functional.pad(ids, (0, 3)), *rest)

    monkeypatch.setattr(CustomBertEmbeddings, "forward", padded)
    with pytest.raises(ValueError, match="does not embed the text's tokens alone"):
        attribute(explainable(subject_of("tiny-bert").model), *inputs(subject_of("tiny-bert")), max_steps=8)


def test_a_score_that_is_no_number_is_refused(subject_of: Callable[[str], Subject]) -> None:
    model = copy.deepcopy(subject_of("tiny-lstm").model)
    torch.nn.init.constant_(model.classifier.bias, torch.nan)
    with pytest.raises(ValueError, match="not a number"):
        attribute(explainable(model), *inputs(subject_of("tiny-lstm")), max_steps=8)
