"""The models that one HTTP process sends texts to."""

import fcntl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from models.inspect.attribution import blank_token
from service.edge.http import errors
from service.frames import Facts
from service.runtime_dir import RuntimeDir
from service.served.catalog import ServedModel, load_tokenizer
from service.settings import Settings
from service.text.encoders import FORMS, Encoder, encoder_of
from service.text.proof import proven_form


@dataclass(slots=True)
class EdgeModel:
    """A model with its tokenizer.

    `place`: its number in a frame. `blank_id`: the token that stands for no word in an explanation's baseline. `in_flight`: how
    many requests are on their way through it; after it is replaced, it is kept until the last of them has ended."""

    place: int
    served: ServedModel
    encoder: Encoder
    blank_id: int
    with_limit: Callable[..., Encoder]
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
        with_limit = partial(encoder_of, tokenizer, special_tokens=special, form=form)
        return cls(place, served, with_limit(max_length=size), blank_token(tokenizer), with_limit)

    def learn(self, facts: Facts) -> None:
        """Goes by what a worker found out, where it is other than what the configuration says."""
        found = replace(self.served, max_length=facts.max_length, labels=tuple(facts.labels))
        if found.max_length != self.served.max_length:
            self.encoder = self.with_limit(max_length=found.max_length)
        self.served = found


class EdgeModels:
    """The models of one HTTP process. `by_place` also holds replaced models that still have requests in flight."""

    def __init__(self) -> None:
        """Without a model; `serve` brings them."""
        self.by_place: dict[int, EdgeModel] = {}
        self._by_name: dict[str, EdgeModel] = {}

    @property
    def catalog(self) -> dict[int, ServedModel]:
        """The models that clients may ask for, by place. The first is the default model."""
        return {model.place: model.served for model in self._by_name.values()}

    def serve(self, models: Mapping[int, EdgeModel]) -> None:
        """Sends new requests to these models from now on. Requests in flight end on the models that they have."""
        self.by_place |= models
        self._by_name = {model.served.name: model for model in models.values()}

    def learn(self, facts: Mapping[int, Facts]) -> None:
        """What a worker found out about the models at its places."""
        for place in facts.keys() & self.by_place.keys():
            self.by_place[place].learn(facts[place])

    def named(self, name: str | None) -> EdgeModel:
        """The model of that name; without a name, the default model. ServiceError 404 if there is none of that name."""
        if name is None:
            return next(iter(self._by_name.values()))
        if name not in self._by_name:
            raise errors.not_found("no such model; GET /info lists the served models")
        return self._by_name[name]

    def drop_idle(self) -> bool:
        """Drops the models that are served no more and have no request in flight. Whether there was one."""
        idle = [place for place in self.by_place.keys() - self.catalog.keys() if not self.by_place[place].in_flight]
        for place in idle:
            del self.by_place[place]
        return bool(idle)
