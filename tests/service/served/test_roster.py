"""The roster of served models by place, and its file."""

import fcntl
import itertools
import multiprocessing
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from service.runtime_dir import RuntimeDir
from service.served.catalog import ServedModel
from service.served.roster import ChangeUnderWay, Followers, Roster, RosterFile


@pytest.fixture
def roster(catalog: Mapping[str, ServedModel]) -> Roster:
    return Roster.of(list(catalog.values()))


def names(roster: Roster) -> list[tuple[int, str]]:
    return [(place, model.name) for place, model in roster.models.items()]


def test_a_new_model_comes_last(roster: Roster, catalog: Mapping[str, ServedModel]) -> None:
    changed = roster.with_model(9, replace(catalog["keyword"], name="new"))
    assert names(changed) == [*names(roster), (9, "new")]
    assert (changed.generation, changed.default) == (roster.generation + 1, 0)


def test_a_model_that_replaces_another_takes_its_row_at_a_new_place(roster: Roster, catalog: Mapping[str, ServedModel]) -> None:
    changed = roster.with_model(9, catalog["tiny-bert"])
    assert names(changed) == [(9, "tiny-bert"), *names(roster)[1:]]
    assert changed.default == 9


def test_a_removed_model_leaves_the_others_at_their_places(roster: Roster) -> None:
    changed = roster.without("tiny-lstm")
    assert names(changed) == [(0, "tiny-bert"), (2, "keyword")]
    assert (changed.place("tiny-lstm"), changed.place("keyword")) == (None, 2)


def test_the_file_holds_the_roster_as_it_was_written(roster: Roster, tmp_path: Path) -> None:
    file = RosterFile(RuntimeDir(tmp_path))
    changed = roster.with_model(2**50, next(iter(roster.models.values())))
    file.write(changed)
    assert file.read() == changed
    assert names(file.read()) == names(changed)


def test_each_write_changes_the_stamp(roster: Roster, tmp_path: Path) -> None:
    file = RosterFile(RuntimeDir(tmp_path))
    stamps = []
    for _ in range(3):
        file.write(roster)
        stamps.append(file.stamp())
    assert all(before != after for before, after in itertools.pairwise(stamps))


def test_the_right_to_change_is_had_by_one_at_a_time(tmp_path: Path) -> None:
    file = RosterFile(RuntimeDir(tmp_path))
    with file.change(), pytest.raises(ChangeUnderWay, match="under way"), RosterFile(RuntimeDir(tmp_path)).change():
        pass
    with file.change():
        pass


def follow(orders: Connection, folder: Path) -> None:
    """Runs in another process, which comes to each generation that `orders` names."""
    follower = Followers(RuntimeDir(folder))
    while True:
        follower.came_to(orders.recv())
        orders.send("done")


def test_a_process_is_waited_for_until_it_comes_along_or_dies(tmp_path: Path) -> None:
    mine = Followers(RuntimeDir(tmp_path))
    mine.came_to(3)
    assert [mine.behind(generation) for generation in (3, 4)] == [0, 1]
    mine.came_to(4)
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    other = fork.Process(target=follow, args=(there, tmp_path))
    other.start()
    for generation, behind in ((3, 1), (4, 0), (2, 1)):
        here.send(generation)
        assert here.recv() == "done"
        assert mine.behind(4) == behind
    other.kill()
    other.join()
    assert mine.behind(4) == 0


def test_a_process_that_has_not_read_the_roster_yet_is_behind(tmp_path: Path) -> None:
    mine = Followers(RuntimeDir(tmp_path))
    mine.came_to(0)
    with (tmp_path / "followers" / "1").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert mine.behind(0) == 1
    assert mine.behind(0) == 0
