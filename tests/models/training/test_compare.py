"""The comparisons of training aids, on tiny models and made-up texts."""

from argparse import Namespace
from functools import partial

import pytest

from models.custom_bert import CustomBertConfig
from models.training import compare, costs
from models.training.data import Example, Splits
from models.training.evaluation import Scores, recalls, variance_table

WORDS = (("bad", "awful", "sad"), ("table", "monday", "road"), ("good", "great", "happy"))
EXAMPLES = [
    Example(f"{word} number {number}", label, "made") for number in range(8) for label in range(3) for word in WORDS[label]
]
SPLITS = Splits(EXAMPLES, EXAMPLES[:24], EXAMPLES[:36])
OPTIONS = Namespace(cpu=True)
FITTED = compare.Fitted(Scores(0.7, 0.6, 0.6), (0.5, 0.6, 0.7), 1.0, 10)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    monkeypatch.setattr(costs, "CustomBertConfig", partial(CustomBertConfig, **sizes))
    monkeypatch.setattr(costs, "STEPS", 3)
    monkeypatch.setattr(costs, "BATCH", 4)


@pytest.mark.parametrize(
    "options", [{}, {"gradient_checkpointing": True}, {"attn_implementation": "packed"}, {"precision": "bf16"}], ids=str
)
@pytest.mark.usefixtures("small")
def test_the_cost_of_a_variant_is_that_of_real_steps(options):
    cost = costs.cost_of(costs.Variant("x", (4, 9), options), device="cpu")
    assert cost.first_step_s > 0
    assert cost.step_s > 0
    assert 0.5 < cost.loss < 2  # three classes at random: 1.1


@pytest.mark.usefixtures("small")
def test_gradient_checkpointing_changes_no_loss():
    kept, checkpointed = (
        costs.cost_of(costs.Variant("x", (8, 8), {"gradient_checkpointing": on}), device="cpu").loss for on in (False, True)
    )
    assert checkpointed == pytest.approx(kept, abs=1e-5)


def test_a_run_from_minilm_counts_what_learns_and_finds_every_label():
    found = compare.minilm_run(SPLITS, OPTIONS, freeze=compare.LAYERS)
    width = 384
    assert found.learning == width * width + width + 3 * width + 3  # the pooler's and the classifier's
    assert len(found.recalls) == 3
    assert found.time_s > 0


def test_rare_negatives_are_rare_to_learn_from_alone(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(compare, "sampled", lambda _: SPLITS)
    monkeypatch.setattr(compare, "minilm_run", lambda splits, _, **changes: seen.append((splits, changes)) or FITTED)
    lines = list(compare.class_weights(OPTIONS))
    negative = sum(example.label == 0 for example in EXAMPLES)
    assert [changes["class_weights"] for _, changes in seen] == [None, "balanced", (3.0, 1.0, 1.0)]
    for splits, _ in seen:
        assert sum(example.label == 0 for example in splits.train) == -(-negative // compare.RARE)
        assert splits.test == SPLITS.test
    assert lines[1] == "| all count alike | 70.0 / 60.0 / 60.0 | 50.0, 60.0, 70.0 |"


def test_recalls_are_each_labels_own():
    assert recalls([0, 0, 2, 2], [0, 1, 2, 2]) == [0.5, 1.0]


def test_a_table_of_runs_gives_mean_and_deviation():
    runs = {"tiny": {"test": [Scores(0.7, 0.5, 0.5), Scores(0.9, 0.5, 0.5)]}}
    assert variance_table(runs).splitlines()[-1] == "| tiny | 80.0 ± 14.1 / 50.0 ± 0.0 / 50.0 ± 0.0 |"
