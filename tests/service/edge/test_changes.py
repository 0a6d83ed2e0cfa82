"""What an HTTP process tells the workers while a model is loaded."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from service.edge.admission import InFlight
from service.edge.changes import Changes
from service.edge.scoring import Scorer
from service.frames import Load
from service.served.catalog import ServedModel
from service.served.roster import Roster, RosterFile
from service.settings import Settings


class SlowLink:
    """To a worker that loads until it is told to end."""

    def __init__(self) -> None:
        self.announced: list[int] = []
        self.loading: dict[int, asyncio.Future[None]] = {}

    def announce(self, places: list[int]) -> None:
        self.announced = places

    def load(self, message: Load) -> asyncio.Future[None]:
        self.loading[message.place] = asyncio.get_running_loop().create_future()
        return self.loading[message.place]

    def has(self, place: int) -> bool:
        return True


def test_a_model_is_needed_while_it_is_loaded_whatever_else_ends(
    settings_of: Callable[..., Settings], catalog: Mapping[str, ServedModel], checkpoints: Mapping[str, Path], tmp_path: Path
) -> None:
    RosterFile(tmp_path).write(Roster.of(list(catalog.values())))

    async def change() -> None:
        link, settings = SlowLink(), settings_of()
        scorer = Scorer(settings, [link], in_flight=InFlight(processes=1, limit=8))  # type: ignore[list-item]
        changes = Changes(settings, scorer, [link], runtime_dir=tmp_path)  # type: ignore[list-item]
        following = asyncio.create_task(changes.follow())
        await changes.remove("tiny-lstm")
        (old,) = scorer.served.keys() - scorer.catalog.keys()
        scorer.served[old].in_flight += 1
        adding = asyncio.create_task(changes.put("new", checkpoints["tiny-bert"], version=None))
        while not link.loading:
            await asyncio.sleep(0.01)
        (place,) = link.loading
        scorer.served[old].in_flight -= 1
        while old in link.announced:
            await asyncio.sleep(0.01)
        assert place in link.announced
        link.loading[place].set_result(None)
        await adding
        assert place in link.announced
        assert scorer.catalog[place].name == "new"
        following.cancel()

    asyncio.run(asyncio.wait_for(change(), timeout=30))
