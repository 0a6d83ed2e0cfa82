"""The kernels for packed texts, held against attention in float64, text by text. Skipped without a GPU."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
# Lengths of the texts, and tokens that belong to none; empty texts come last, as in a graph's bounds.
PACKS = [
    ([5, 3, 70, 1, 22, 130, 64, 64, 9], 0),
    ([5, 3, 70, 1, 22], 40),
    ([1] * 7, 3),
    ([512, 200], 0),
    ([20, 20, 20, 0, 0], 10),
    ([22] * 700, 984),
]


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(("lengths", "tail"), PACKS, ids=lambda value: str(value)[:24])
@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_texts_attend_to_themselves_alone(lengths: list[int], tail: int, width: int, dtype: torch.dtype) -> None:
    from models.attention import kernels

    tokens, heads = sum(lengths) + tail, 3
    torch.manual_seed(0)
    query, key, value = torch.randn(tokens, 3, heads, width, device="cuda", dtype=dtype).unbind(1)
    bounds = torch.tensor([0, *lengths], device="cuda").cumsum(0).int()
    firsts = bounds[:-1].clamp(max=tokens - 1)
    found = kernels.attend(query, key, value, bounds, width**-0.5)
    once = kernels.attend_once(query[firsts], key, value, bounds, width**-0.5)
    assert found.isfinite().all()
    exact = [
        F.scaled_dot_product_attention(*(states[begin:end].double().transpose(0, 1) for states in (query, key, value))).transpose(
            0, 1
        )
        for begin, end in pairwise(bounds.tolist())
        if end > begin
    ]
    tolerance = 4e-3 if dtype == torch.bfloat16 else 1e-3
    assert error(found[: sum(lengths)], torch.cat(exact)) < tolerance
    assert error(once[: len(exact)], torch.stack([rows[0] for rows in exact])) < tolerance
    assert not once[len(exact) :].any()
