"""`/models`: what is served, for every client; and changes of it, for who has the admin key."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, NotRequired

from pydantic import StringConstraints, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from service.edge import errors
from service.edge.call import Answer, Call, json_answer, read_body
from service.edge.changes import Changes
from service.edge.errors import ServiceError
from service.edge.routes.predict import STRICT
from service.edge.routes.roots import find_checkpoint
from service.settings import Settings

CLOSED = "the models of this service can't be changed while it runs: it was started without --model-roots"
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


@with_config(STRICT)
class ModelBody(TypedDict):
    """The body of `POST /models`: the folder to serve under a name. `version` is the operator's own word."""

    name: Word
    path: str
    version: NotRequired[Word | None]


class ModelState(TypedDict):
    """A served model. `weights` tells two checkpoints apart by what their files hold; `since` is ISO 8601."""

    name: str
    version: str | None
    weights: str
    architecture: str
    since: str
    state: str


class ModelRemoved(TypedDict):
    """The answer to `DELETE /models/{name}`."""

    name: str
    state: str


BODY: TypeAdapter[ModelBody] = TypeAdapter(ModelBody)
STATES: TypeAdapter[list[ModelState]] = TypeAdapter(list[ModelState])


class Admin:
    """The routes."""

    def __init__(self, settings: Settings, changes: Changes) -> None:
        self.settings = settings
        self.changes = changes

    async def models(self, call: Call) -> Answer:
        """What is served."""
        return json_answer(200, [self._described(name) for name in self._names()])

    async def put(self, call: Call) -> Answer:
        """Adds a model, or replaces the one of its name."""
        self._check_open()
        asked = parse_model(await read_body(call, self.settings.payload_limit, self.settings.request_timeout_s))
        path = find_checkpoint(asked["path"], self.settings.model_roots)
        known = asked["name"] in self._names()
        try:
            await self.changes.put(asked["name"], path, version=asked.get("version"))
        except ServiceError as error:
            raise replace(error, message=self._readable(error.message, path)) from error
        return json_answer(200 if known else 201, self._described(asked["name"]))

    async def remove(self, call: Call) -> Answer:
        """Serves a model no more."""
        self._check_open()
        name = call.scope["path"].removeprefix("/models/")
        await self.changes.remove(name)
        return json_answer(200, {"name": name, "state": "removed"})

    def _names(self) -> list[str]:
        return [model.name for model in self.changes.roster.models.values()]

    def _described(self, name: str) -> ModelState:
        place = self.changes.roster.place(name)
        assert place is not None
        model = self.changes.roster.models[place]
        workers = [link.has(place) for link in self.changes.links]
        return {
            "name": name,
            "version": model.version,
            "weights": model.weights,
            "architecture": model.architecture,
            "since": model.since,
            "state": "ready" if all(workers) else f"on {sum(workers)} of {len(workers)} workers",
        }

    def _readable(self, message: str, path: Path) -> str:
        """Folders by their names: whoever asked knows where the checkpoint lies, and need not learn where other things do."""
        return message.replace(f"{path.parent}/", "").replace(f"{self.settings.tokenizers_dir.parent}/", "")

    def _check_open(self) -> None:
        if not self.settings.model_roots:
            raise errors.forbidden(CLOSED)


def parse_model(body: bytes) -> ModelBody:
    """ServiceError 400 if it is not JSON, 422 where a field is wrong."""
    try:
        return BODY.validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        if fault["type"] == "json_invalid":
            raise errors.ServiceError(400, "validation", "the body is not valid JSON") from None
        place = ".".join(str(part) for part in fault["loc"]) or "the body"
        raise errors.validation(f"{place}: {fault['msg'][0].lower()}{fault['msg'][1:]}") from None
