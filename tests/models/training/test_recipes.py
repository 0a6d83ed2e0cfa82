"""Every architecture can be trained, and starts from embeddings of its own width."""

import pytest
import torch

from models.registration import ARCHITECTURES
from models.training import recipes
from models.training.recipes import BERT, CONV, MAKERS, RECIPES, make_bert, make_student
from models.training.transfer import narrow_embeddings


def test_every_architecture_has_a_recipe_with_a_maker() -> None:
    assert {recipe.architecture for recipe in RECIPES.values()} == {config.model_type for config, _, _ in ARCHITECTURES}
    assert MAKERS.keys() == RECIPES.keys()
    assert MAKERS[BERT.name] is make_bert
    assert MAKERS[CONV.name] is make_student


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
