"""`/models`: lists the served models for every client, and changes them for clients with the admin key."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NotRequired

from pydantic import StringConstraints, TypeAdapter, with_config
from typing_extensions import TypedDict

from service.edge.http import errors
from service.edge.http.call import Call, Response, json_response
from service.edge.http.errors import ServiceError
from service.edge.routes.fields import STRICT, parsed
from service.edge.routes.openapi import Operation, Schema
from service.edge.routes.route import Route, Services
from service.served.adapter import base_folder, is_adapter, read_adapter
from service.served.refusal import CatalogError
from service.settings import Settings

OUTSIDE = "path: must name a checkpoint folder in one of the service's model roots"
EXPECTED = "the body must be a JSON object with the fields name and path"
CLOSED = "the models of this service can't be changed while it runs: it was started without --model-roots"
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


@with_config(STRICT)
class ModelBody(TypedDict):
    """The body of `POST /models`: the folder to serve under a name. `version` is the operator's own word."""

    name: Word
    path: str
    version: NotRequired[Word | None]


class ModelState(TypedDict):
    """A served model. `weights`: a hash of the weight files. `since`: when the checkpoint was read, ISO 8601."""

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


MODEL_BODY: TypeAdapter[ModelBody] = TypeAdapter(ModelBody)


async def models(edge: Services, call: Call) -> Response:
    """What is served."""
    return json_response(200, [_described(edge, name) for name in _names(edge)])


async def put(edge: Services, call: Call) -> Response:
    """Adds a model, or replaces the one of its name."""
    _check_open(edge.settings)
    call.timeout_s = edge.settings.request_timeout_s
    asked = parsed(MODEL_BODY, await edge.admission.bodies.read(call), expected=EXPECTED)
    path = find_checkpoint(asked["path"], edge.settings.model_roots)
    known = asked["name"] in _names(edge)
    try:
        await edge.changes.put(asked["name"], path, version=asked.get("version"))
    except ServiceError as error:
        raise replace(error, message=_readable(error.message, path, edge.settings)) from error
    return json_response(200 if known else 201, _described(edge, asked["name"]))


async def remove(edge: Services, call: Call) -> Response:
    """Serves a model no more."""
    _check_open(edge.settings)
    name = call.parameters["name"]
    await edge.changes.remove(name)
    return json_response(200, {"name": name, "state": "removed"})


def find_checkpoint(path: str, roots: Sequence[str]) -> Path:
    """The folder that `path` names, absolute or from one of `roots`.

    ServiceError 422 unless the folder and each of its files lie in one of the roots once symbolic links are followed."""
    allowed = [Path(root).expanduser().resolve() for root in roots]
    try:
        folders = [(root / path).resolve() for root in allowed]
        folder = next((folder for folder in folders if lies_in(folder, allowed) and _is_checkpoint(folder)), None)
        if folder is None:
            raise errors.validation(OUTSIDE)
        held = [folder, _base(folder, allowed)] if is_adapter(folder) else [folder]
        strays = [file.name for one in held for file in one.iterdir() if not lies_in(file.resolve(), allowed)]
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
        raise errors.validation(OUTSIDE) from None
    if strays:
        raise errors.validation(f"path: {strays[0]} is a link that leads out of the service's model roots")
    return folder


def _is_checkpoint(folder: Path) -> bool:
    return (folder / "config.json").is_file() or is_adapter(folder)


def _base(adapter: Path, allowed: Sequence[Path]) -> Path:
    """The folder of an adapter's base. ServiceError 422 unless it lies in a root too: a hub is asked at the start only."""
    try:
        base = base_folder(read_adapter(adapter))
    except CatalogError as error:
        raise errors.validation(str(error).replace(f"{adapter.parent}/", "")) from error
    if base is None or not lies_in(base, allowed):
        raise errors.validation("path: the base that this adapter names must be a folder in one of the service's model roots")
    return base


def lies_in(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a path lies in one of the roots; it holds no symbolic link."""
    return any(path.is_relative_to(root) for root in roots)


def _names(edge: Services) -> list[str]:
    return [model.name for model in edge.changes.roster.models.values()]


def _described(edge: Services, name: str) -> ModelState:
    place = edge.changes.roster.place(name)
    assert place is not None
    model = edge.changes.roster.models[place]
    workers = [place in link.places for link in edge.links]
    return {
        "name": name,
        "version": model.version,
        "weights": model.weights,
        "architecture": model.architecture,
        "since": model.since,
        "state": "ready" if all(workers) else f"on {sum(workers)} of {len(workers)} workers",
    }


def _readable(message: str, path: Path, settings: Settings) -> str:
    """The message without the paths of folders: a client need not learn where files lie on this machine."""
    known = [path.parent, settings.tokenizers_dir.parent, *(Path(root).expanduser().resolve() for root in settings.model_roots)]
    for folder in known:
        message = message.replace(f"{folder}/", "")
    return message


def _check_open(settings: Settings) -> None:
    if not settings.model_roots:
        raise errors.forbidden(CLOSED)


ROUTES = (
    Route(
        method="GET",
        path="/models",
        handle=models,
        operation=Operation(
            name="models",
            summary="Served models and their versions.",
            answer=Schema("ModelStates", TypeAdapter(list[ModelState])),
            failures=(401,),
        ),
    ),
    Route(
        method="POST",
        path="/models",
        handle=put,
        admin=True,
        operation=Operation(
            name="put_model",
            summary="Serve a checkpoint, in the place of the model of its name.",
            answer=Schema("ModelState", TypeAdapter(ModelState)),
            body=Schema("ModelBody", MODEL_BODY),
            example={"name": "mine", "path": "/checkpoints/mine", "version": "2"},
            failures=(400, 401, 403, 408, 409, 413, 415, 422, 429, 503, 504),
            created="A new name.",
        ),
    ),
    Route(
        method="DELETE",
        path="/models/{name}",
        handle=remove,
        admin=True,
        operation=Operation(
            name="remove_model",
            summary="Serve a model no more.",
            answer=Schema("ModelRemoved", TypeAdapter(ModelRemoved)),
            failures=(401, 403, 404, 409, 429, 504),
        ),
    ),
)
