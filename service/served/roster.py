"""Which models are served now, each at a place: the number by which a job names its model.

A model that replaces another gets a new place. The roster lies in the runtime folder as one file. The process that changes it
replaces the file as a whole. Every HTTP process follows the file, and a worker reads it when it starts.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from service.runtime_dir import RuntimeDir, locked
from service.served.catalog import ServedModel


@dataclass(frozen=True)
class Roster:
    """`models` by place; the first is the default model. `generation` counts the changes."""

    models: Mapping[int, ServedModel]
    generation: int = 0

    @classmethod
    def of(cls, models: Sequence[ServedModel]) -> "Roster":
        """The roster that a service starts with."""
        return cls(dict(enumerate(models)))

    @property
    def default(self) -> int:
        return next(iter(self.models))

    def place(self, name: str) -> int | None:
        """The place of the model of that name; None where there is none."""
        return next((place for place, model in self.models.items() if model.name == name), None)

    def with_model(self, place: int, model: ServedModel) -> "Roster":
        """A roster that has `model` at `place`, in the row of the model of its name, which it replaces, or in a new last row."""
        replaced = self.place(model.name)
        rows = [(place, model) if old == replaced else (old, kept) for old, kept in self.models.items()]
        return Roster(dict(rows if replaced is not None else [*rows, (place, model)]), self.generation + 1)

    def without(self, name: str) -> "Roster":
        """A roster without the model of that name."""
        return Roster({place: kept for place, kept in self.models.items() if kept.name != name}, self.generation + 1)


ROSTER: TypeAdapter[Roster] = TypeAdapter(Roster)
MODEL: TypeAdapter[ServedModel] = TypeAdapter(ServedModel)


class ChangeUnderWay(Exception):
    """Another process is changing the roster."""

    def __init__(self) -> None:
        super().__init__("another change of the models is under way; retry when it is done")


class RosterFile:
    """The file that holds the roster of a running service."""

    def __init__(self, runtime_dir: RuntimeDir) -> None:
        self.path = runtime_dir.roster

    def read(self) -> Roster:
        return ROSTER.validate_json(self.path.read_bytes())

    def write(self, roster: Roster) -> None:
        """Replaces the file in one step: a reader sees the old roster or the new one, and no mixture."""
        new = self.path.with_suffix(".new")
        new.write_bytes(ROSTER.dump_json(roster))
        new.replace(self.path)

    def stamp(self) -> tuple[int, int]:
        """A value that changes with each write."""
        status = self.path.stat()
        return status.st_ino, status.st_mtime_ns

    @contextmanager
    def change(self) -> Iterator[None]:
        """Holds the right to write, which one process has at a time and loses when it dies. ChangeUnderWay if another has it."""
        with self.path.with_suffix(".lock").open("w") as file:
            if not locked(file.fileno()):
                raise ChangeUnderWay
            yield


class Followers:
    """The generation that each HTTP process routes by: a file for each process, locked as long as the process lives."""

    def __init__(self, runtime_dir: RuntimeDir) -> None:
        """Adds this process, before it first reads the roster: from then on every change waits for it."""
        self._folder = runtime_dir.followers
        self._folder.mkdir(exist_ok=True)
        self._mine = os.open(self._folder / str(os.getpid()), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        fcntl.flock(self._mine, fcntl.LOCK_EX)

    def came_to(self, generation: int) -> None:
        """Notes that this process routes by that generation."""
        os.pwrite(self._mine, b"%020d" % generation, 0)

    def behind(self, generation: int) -> int:
        """How many processes still route by an older generation."""
        return sum(_generation(file) < generation for file in self._folder.iterdir())


def _generation(file: Path) -> float:
    """What the file of a process says; infinite for a process that is gone."""
    with file.open("rb") as opened:
        if file.name != str(os.getpid()) and locked(opened.fileno()):
            return float("inf")
        return int(opened.read() or -1)
