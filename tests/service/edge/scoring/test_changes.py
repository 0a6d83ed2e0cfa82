"""What an HTTP process tells the workers while a model is loaded."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from service.edge.scoring.changes import Changes
from service.edge.scoring.models import EdgeModels
from service.frames import Load
from service.runtime_dir import RuntimeDir
from service.served.catalog import ServedModel
from service.served.roster import Roster, RosterFile
from service.settings import Settings


class SlowLink:
    """A link to a worker whose load ends when the test says so."""

    hello = None

    def __init__(self) -> None:
        self.announced: list[int] = []
        self.loading: dict[int, asyncio.Future[None]] = {}

    def announce(self, places: list[int]) -> None:
        self.announced = places

    def load(self, message: Load) -> asyncio.Future[None]:
        self.loading[message.place] = asyncio.get_running_loop().create_future()
        return self.loading[message.place]

    @property
    def places(self) -> list[int]:
        return list(self.loading)


def test_a_model_is_needed_while_it_is_loaded_whatever_else_ends(
    settings_of: Callable[..., Settings], catalog: Mapping[str, ServedModel], checkpoints: Mapping[str, Path], tmp_path: Path
) -> None:
    RosterFile(RuntimeDir(tmp_path)).write(Roster.of(list(catalog.values())))

    async def change() -> None:
        link, models = SlowLink(), EdgeModels()
        changes = Changes(settings_of(), models, [link], runtime_dir=RuntimeDir(tmp_path))  # type: ignore[list-item]
        following = asyncio.create_task(changes.follow())
        await changes.remove("tiny-lstm")
        (old,) = models.by_place.keys() - models.catalog.keys()
        models.by_place[old].in_flight += 1
        adding = asyncio.create_task(changes.put("new", checkpoints["tiny-bert"], version=None))
        while not link.loading:
            await asyncio.sleep(0.01)
        (place,) = link.loading
        models.by_place[old].in_flight -= 1
        while old in link.announced:
            await asyncio.sleep(0.01)
        assert place in link.announced
        link.loading[place].set_result(None)
        await adding
        assert place in link.announced
        assert models.catalog[place].name == "new"
        following.cancel()

    asyncio.run(asyncio.wait_for(change(), timeout=30))
