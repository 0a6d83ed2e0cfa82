"""Every architecture can be trained, by a recipe of its own or by the default one."""

import pytest

from models.registration import ARCHITECTURES
from models.training.__main__ import chosen_recipes
from models.training.data import Example
from models.training.recipes import RECIPES, table
from models.training.recipes.makers import MAKERS, make_bert, make_chinese, make_student
from models.training.recipes.recipe import head_fields, in_classes_of
from models.training.recipes.table import BERT, CONV, LSTM_ZH


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


def test_an_architecture_that_no_recipe_names_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class NewConfig:
        model_type = "my_new_one"

    monkeypatch.setattr(table, "ARCHITECTURES", (*ARCHITECTURES, (NewConfig, None, None)))
    found = table.recipes()
    assert found["my-new-one"].architecture == "my_new_one"
    assert list(found)[:-1] == list(RECIPES)
