"""The models that one HTTP process sends texts to."""

import fcntl
from collections.abc import Mapping
from dataclasses import dataclass

from models.inspect.attribution import blank_token
from service.edge.http import errors
from service.runtime_dir import RuntimeDir
from service.served.catalog import ServedModel, load_tokenizer
from service.settings import Settings
from service.text.encoders import FORMS, Encoder, encoder_of
from service.text.proof import proven_form


@dataclass(slots=True)
class EdgeModel:
    """A model with its tokenizer. `place`: its number in a frame. `blank_id`: the token that stands for no word in an
    explanation's baseline. `in_flight`: requests that are on their way through it, which keep it where it is replaced."""

    place: int
    served: ServedModel
    encoder: Encoder
    blank_id: int
    in_flight: int = 0

    @classmethod
    def of(cls, place: int, served: ServedModel, *, settings: Settings, runtime_dir: RuntimeDir) -> "EdgeModel":
        """Loads the tokenizer. The first process that comes to a place finds out by proof how its texts are encoded; the others
        wait for it and do the same."""
        tokenizer = load_tokenizer(served.tokenizer_path)
        size, special = served.max_length, settings.special_tokens_in_texts
        runtime_dir.encoders.mkdir(exist_ok=True)
        with (runtime_dir.encoders / str(place)).open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            said = file.read()
            form = next((known for known in FORMS if known == said), None)
            if form is None:
                form = proven_form(tokenizer, name=served.name, max_length=size, special_tokens=special)
                file.truncate(0)
                file.write(form)
        encoder = encoder_of(tokenizer, max_length=size, special_tokens=special, form=form)
        return cls(place, served, encoder, blank_token(tokenizer))


class EdgeModels:
    """`by_place`: those that clients may ask for, and those that were replaced and still have requests in flight."""

    def __init__(self) -> None:
        """None before `serve`."""
        self.by_place: dict[int, EdgeModel] = {}
        self._by_name: dict[str, EdgeModel] = {}

    @property
    def catalog(self) -> dict[int, ServedModel]:
        """What clients may ask for, by place; the first is the default model."""
        return {model.place: model.served for model in self._by_name.values()}

    def serve(self, models: Mapping[int, EdgeModel]) -> None:
        """New requests go to these from now on; those in flight end where they are."""
        self.by_place |= models
        self._by_name = {model.served.name: model for model in models.values()}

    def named(self, name: str | None) -> EdgeModel:
        """Which model; without a name, the first. ServiceError 404 where there is none of that name."""
        if name is None:
            return next(iter(self._by_name.values()))
        if name not in self._by_name:
            raise errors.not_found("no such model; GET /info lists the served models")
        return self._by_name[name]

    def drop_idle(self) -> bool:
        """Drops the models that are served no more once no request is on its way through them; whether there was one."""
        idle = [place for place in self.by_place.keys() - self.catalog.keys() if not self.by_place[place].in_flight]
        for place in idle:
            del self.by_place[place]
        return bool(idle)
