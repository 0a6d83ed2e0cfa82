"""Embeddings carried over to a model of another width."""

import pytest
import torch

from models.training.recipes.transfer import narrow_embeddings


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
