"""Changes of the served models while the service runs, as one HTTP process makes and follows them.

A model is added in four steps. Before the third, nothing has changed for any client:

1. this process announces a new place to each worker, so that the worker keeps the model that is loaded there;
2. each worker, one after another, loads the model at that place and lets it answer a real forward;
3. the roster that holds the place is written, and every HTTP process sends new requests there;
4. a process without a request in flight at the old place announces that; a worker that has heard it from all drops the old model.

A process that dies on the way leaves nothing behind: its connections close, and its announcements end with them.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from service import metrics
from service.edge.http import errors
from service.edge.http.errors import ServiceError
from service.edge.scoring.link import Link
from service.edge.scoring.models import EdgeModel, EdgeModels
from service.frames import Load
from service.runtime_dir import RuntimeDir
from service.served.catalog import CatalogError, ServedModel, served_model
from service.served.roster import MODEL, ChangeUnderWay, Followers, Roster, RosterFile
from service.settings import Settings

log = logging.getLogger("valence.models")
FOLLOW_S = 0.2
CONFIRM_S = 30.0
POLL_S = 0.02
# How long one worker may load, from a slow disk. After that something is stuck.
LOAD_S = 900.0


class Changes:
    """Makes this process serve what the roster says, and changes the roster for all processes."""

    def __init__(self, settings: Settings, models: EdgeModels, links: Sequence[Link], *, runtime_dir: RuntimeDir) -> None:
        """Serves what the roster says now."""
        self.settings = settings
        self.models = models
        self.links = links
        self.file = RosterFile(runtime_dir)
        self.followers = Followers(runtime_dir)
        self._edge_model = partial(EdgeModel.of, settings=settings, runtime_dir=runtime_dir)
        self.roster = Roster({}, generation=-1)
        self._turn = asyncio.Lock()
        self._candidates: tuple[int, ...] = ()  # a place that is being loaded
        roster = self.file.read()
        self._follow(roster, {place: self._edge_model(place, model) for place, model in roster.models.items()})

    async def follow(self) -> None:
        """Runs for the life of the process: follows the changes that other processes make."""
        stamp = None
        while True:
            try:
                found = self.file.stamp()
                if found != stamp:
                    await self.catch_up()
                    stamp = found
            except Exception:  # a deleted tokenizer, say: the served models go on, and the next round tries again
                log.exception("the served models could not be followed")
            if self.models.drop_idle():
                self._announce()
            await asyncio.sleep(FOLLOW_S)

    async def catch_up(self) -> None:
        """Reads the roster and serves what it says."""
        async with self._turn:
            roster = self.file.read()
            if roster.generation == self.roster.generation:
                return
            new = {place: model for place, model in roster.models.items() if place not in self.models.by_place}
            self._follow(roster, {place: await asyncio.to_thread(self._edge_model, place, model) for place, model in new.items()})

    async def put(self, name: str, path: Path, *, version: str | None) -> ServedModel:
        """Serves the checkpoint in `path` under a name, instead of the model that had the name.

        ServiceError if that can't be done; then nothing is changed."""
        with self._change():
            await self.catch_up()
            model = await self._described(name, path, version)
            place = time.monotonic_ns()  # a number that no place had before, not even one whose load failed
            self._candidates = (place,)  # every announcement names it from now on, or a worker would drop it again
            self._announce()
            try:
                await self._load(Load(place, MODEL.dump_json(model)))
                await self._write(self.roster.with_model(place, model))
            finally:
                self._candidates = ()
                self._announce()
        log.info("serving %s, version %s, weights %s", name, version, model.weights)
        return model

    async def remove(self, name: str) -> None:
        """Serves a model no more. ServiceError for the default model, and for a name that is not served."""
        with self._change():
            await self.catch_up()
            place = self.roster.place(name)
            if place is None:
                raise errors.not_found("no such model; GET /models lists the served models")
            if place == self.roster.default:
                raise errors.conflict(f"{name} is the default model, for requests that name none; replace it instead")
            await self._write(self.roster.without(name))
        log.info("removed %s", name)

    @contextmanager
    def _change(self) -> Iterator[None]:
        try:
            with self.file.change():
                yield
        except ChangeUnderWay as error:
            raise errors.conflict(str(error)) from None

    def _follow(self, roster: Roster, new: Mapping[int, EdgeModel]) -> None:
        for model in self.roster.models.values():
            metrics.model_info(model.name, model.architecture, served=False)
        for model in roster.models.values():
            metrics.model_info(model.name, model.architecture, served=True)
            metrics.requests_at_zero(model.name)
        self.models.serve({place: new.get(place) or self.models.by_place[place] for place in roster.models})
        for link in self.links:
            if link.hello is not None:
                self.models.learn(link.hello.facts)
        self.roster = roster
        self._announce()
        self.followers.came_to(roster.generation)

    def _announce(self) -> None:
        for link in self.links:
            link.announce([*self.models.by_place, *self._candidates])

    async def _described(self, name: str, path: Path, version: str | None) -> ServedModel:
        try:
            return await asyncio.to_thread(served_model, name, path, self.settings, version=version)
        except CatalogError as error:
            raise errors.validation(str(error)) from error

    async def _load(self, message: Load) -> None:
        """Has one worker after another load the model, while the others compute at full speed."""
        try:
            for link in self.links:
                async with asyncio.timeout(LOAD_S):
                    await link.load(message)
        except TimeoutError:
            raise ServiceError(504, "timeout", f"no worker may take more than {LOAD_S:g} s to load a model") from None
        if not all(message.place in link.places for link in self.links):
            raise errors.unhealthy("a worker died while the model was loaded; nothing was changed")

    async def _write(self, roster: Roster) -> None:
        """Writes the roster, and waits until every HTTP process routes by it."""
        self.file.write(roster)
        await self.catch_up()
        deadline = time.monotonic() + CONFIRM_S
        while behind := self.followers.behind(roster.generation):
            if time.monotonic() > deadline:
                raise ServiceError(504, "timeout", f"the change is made, but {behind} HTTP processes have not confirmed it")
            await asyncio.sleep(POLL_S)
