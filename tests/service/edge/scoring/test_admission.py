"""Requests in flight are counted over processes."""

import multiprocessing
from collections.abc import Callable

import pytest

from service.edge.http import errors
from service.edge.http.errors import ServiceError
from service.edge.scoring.admission import Explanations, InFlight


def run_forked(work: Callable[[], None]) -> None:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(10)
    assert process.exitcode == 0


def test_all_processes_share_one_limit() -> None:
    in_flight = InFlight(processes=3, limit=3)
    in_flight.enter(0)
    in_flight.add()

    def another() -> None:
        in_flight.add()
        in_flight.add()
        with pytest.raises(ServiceError, match="3"):
            in_flight.add()
        in_flight.remove()

    in_flight.enter(2)
    run_forked(another)
    assert in_flight.total == 2


def test_what_a_process_held_that_died_is_free_for_the_next_at_its_place() -> None:
    in_flight = InFlight(processes=2, limit=8)
    in_flight.enter(1)
    run_forked(in_flight.add)
    assert in_flight.total == 1
    in_flight.enter(1)
    assert in_flight.total == 0


def test_all_processes_share_the_limit_of_explanations() -> None:
    explanations = Explanations(InFlight(processes=2, limit=1, refusal=errors.too_many_explanations))
    explanations.in_flight.enter(0)

    def another() -> None:
        explanations.in_flight.enter(1)
        with pytest.raises(ServiceError, match="more than 1 explanations"), explanations.held():
            pass

    with explanations.held():
        run_forked(another)
    with explanations.held():
        pass
