"""What a route is, and what the handler of one works with."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from service.edge.http.call import Call, Response
from service.edge.routes.openapi import Operation
from service.edge.scoring.admission import Admission, Explanations
from service.edge.scoring.changes import Changes
from service.edge.scoring.link import Link
from service.edge.scoring.models import EdgeModels
from service.edge.scoring.scoring import Scorer
from service.edge.telemetry.meter import Tally
from service.settings import Settings
from service.shared import Flag


@dataclass(frozen=True)
class Services:
    """What all handlers of one HTTP process share. `document`: OpenAPI as JSON. `assets`: files of the documentation by path."""

    settings: Settings
    models: EdgeModels
    scorer: Scorer
    changes: Changes
    links: Sequence[Link]
    admission: Admission
    explanations: Explanations
    tally: Tally
    draining: Flag
    http_processes: int
    document: bytes
    assets: Mapping[str, bytes]


Handler = Callable[[Services, Call], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Route:
    """A row of the table. A path may hold `{name}`, which stands for one segment.

    `operation`: what the OpenAPI document says of it; None: nothing. `label`: what metrics, log and traces call it; the path
    unless given. `takes_texts`: admission reads the body and counts the request in flight. `admin`: takes an admin key.
    """

    method: str
    path: str
    handle: Handler
    operation: Operation | None = None
    label: str = ""
    takes_texts: bool = False
    admin: bool = False
