"""A worker takes every core while the others are idle, and its share beside a busy one."""

import time

import pytest
import torch

from service.engine.cores import QUIET_S, Cores


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def workers(tmp_path):
    return [Cores(tmp_path / "busy", worker=worker, workers=3, share=1, total=3) for worker in range(3)]


def test_one_alone_takes_all(workers):
    with workers[1]:
        assert torch.get_num_threads() == 3


def test_beside_a_busy_one_it_takes_its_share(workers):
    with workers[0], workers[2]:
        assert torch.get_num_threads() == 1


def test_its_share_just_after_the_other_was_busy(workers):
    with workers[0]:
        pass
    with workers[2]:
        assert torch.get_num_threads() == 1


def test_all_again_once_the_other_is_quiet(workers):
    with workers[0]:
        pass
    time.sleep(2 * QUIET_S)
    with workers[2]:
        assert torch.get_num_threads() == 3


def test_its_own_last_forward_does_not_count(workers):
    with workers[0]:
        pass
    with workers[0]:
        assert torch.get_num_threads() == 3


def test_a_forward_that_raises_leaves_the_worker_idle(workers):
    with pytest.raises(ValueError, match="forward"), workers[0]:
        raise ValueError("forward")
    time.sleep(2 * QUIET_S)
    with workers[1]:
        assert torch.get_num_threads() == 3


def test_a_worker_that_died_busy_is_idle_when_it_starts_again(workers, tmp_path):
    workers[0].__enter__()
    Cores(tmp_path / "busy", worker=0, workers=3, share=1, total=3)
    with workers[1]:
        assert torch.get_num_threads() == 3
