"""What a piece of work costs."""

import pytest
import torch

from models.measuring import in_new_process, measured

MIB = 2**20


def touch(mebibytes: int) -> int:
    """Fills so much memory and lets it go."""
    return int(torch.ones(mebibytes * MIB // 4).sum().item()) * 4 // MIB


def cost_of_touching(mebibytes: int) -> tuple[int, float, float]:
    result, spent = measured(lambda: touch(mebibytes), device="cpu")
    return result, spent.time_s, spent.memory_mib


def test_the_peak_is_the_works_own_and_its_result_comes_back():
    result, time_s, memory_mib = in_new_process(cost_of_touching, 64)
    assert result == 64
    assert time_s > 0
    assert 60 < memory_mib < 90  # and what the allocator and the sum take


@pytest.mark.parametrize("before", [96])
def test_an_earlier_peak_does_not_count(before):
    touch(before)
    assert cost_of_touching(16)[2] < before / 2
