"""Every architecture can be trained, and starts from embeddings of its own width."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.registration import ARCHITECTURES
from models.training import recipes
from models.training.__main__ import chosen_recipes
from models.training.data import Example, Splits
from models.training.recipes import (
    BERT,
    CONV,
    LSTM_ZH,
    MAKERS,
    RECIPES,
    head_fields,
    in_classes_of,
    make_bert,
    make_chinese,
    make_student,
)
from models.training.trainer import Runtime, Schedule
from models.training.transfer import narrow_embeddings


def test_every_architecture_has_a_recipe_with_a_maker() -> None:
    assert {recipe.architecture for recipe in RECIPES.values()} == {config.model_type for config, _, _ in ARCHITECTURES}
    assert MAKERS.keys() == RECIPES.keys()
    assert MAKERS[BERT.name] is make_bert
    assert MAKERS[CONV.name] is make_student
    assert MAKERS[LSTM_ZH.name] is make_chinese


@pytest.mark.parametrize(
    ("task", "corpora", "made"),
    [
        ("sentiment-lstm-zh", ["chinese"], [LSTM_ZH.name]),
        ("evaluate", ["english", "chinese"], []),
        ("all", ["english", "chinese"], list(RECIPES)),
    ],
)
def test_a_task_is_done_corpus_by_corpus(task: str, corpora: list[str], made: list[str]) -> None:
    chosen = chosen_recipes(task)
    assert list(chosen) == corpora
    assert sorted(recipe.name for recipes in chosen.values() for recipe in recipes) == sorted(made)


def test_a_recipe_of_two_classes_leaves_the_third_out() -> None:
    examples = [Example("差", 0, "a"), Example("书", 1, "a"), Example("好", 2, "a")]
    assert in_classes_of(LSTM_ZH, examples) == [Example("差", 0, "a"), Example("好", 1, "a")]
    assert in_classes_of(BERT, examples) == examples
    assert head_fields(LSTM_ZH)["id2label"] == {0: "negative", 1: "positive"}


def test_the_chinese_recipe_trains_a_model_of_two_classes(tmp_path: Path) -> None:
    texts = [(f"房间{first}，服务{second}", 2) for first in ("很好", "干净") for second in ("周到", "热情")]
    texts += [(f"房间{first}，服务{second}", 0) for first in ("很脏", "太吵") for second in ("恶劣", "太慢")]
    examples = [Example(f"{text}{number}", label, "a") for text, label in texts for number in range(8)]
    schedule = Schedule(epochs=1, learning_rate=1e-3, batch_size=32, evaluations_per_epoch=1, teacher_weight=0.5)
    recipe = replace(
        LSTM_ZH, vocab_size=500, schedule=schedule, fields={"embedding_size": 8, "hidden_size": 8, "num_hidden_layers": 1}
    )
    model, tokenizer = make_chinese(recipe, Splits(examples, examples[::5], []), runtime=Runtime(tmp_path, cpu=True))
    assert (model.num_labels, model.config.vocab_size) == (2, len(tokenizer))
    assert tokenizer.unk_token_id not in tokenizer("房间很好😍")["input_ids"]


def test_an_architecture_that_no_recipe_names_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class NewConfig:
        model_type = "my_new_one"

    monkeypatch.setattr(recipes, "ARCHITECTURES", (*ARCHITECTURES, (NewConfig, None, None)))
    found = recipes.recipes()
    assert found["my-new-one"].architecture == "my_new_one"
    assert list(found)[:-1] == list(RECIPES)


def test_narrow_embeddings_keep_the_inner_products_that_they_can() -> None:
    torch.manual_seed(0)
    flat = torch.randn(50, 4) @ torch.randn(4, 12)  # 12 wide, of 4 directions
    narrow = narrow_embeddings(flat, 4)
    assert narrow.shape == (50, 4)
    torch.testing.assert_close(narrow @ narrow.T, flat @ flat.T, atol=1e-3, rtol=1e-4)
    kept = (narrow_embeddings(flat, 3).square().sum() / flat.square().sum()).item()
    at_random = (flat[:, :3].square().sum() / flat.square().sum()).item()
    assert at_random < kept < 1


def test_embeddings_of_the_same_width_are_as_they_were() -> None:
    embeddings = torch.randn(5, 3)
    assert torch.equal(narrow_embeddings(embeddings, 3), embeddings)


def test_padding_stays_zero() -> None:
    embeddings = torch.randn(5, 3)
    embeddings[0] = 0
    assert narrow_embeddings(embeddings, 2)[0].count_nonzero() == 0


def test_a_wider_model_is_refused() -> None:
    with pytest.raises(ValueError, match="embeddings 3 wide can't be carried over to 4; make the model's no wider"):
        narrow_embeddings(torch.randn(5, 3), 4)
