"""The edge alone, called as uvicorn calls it: what it asks of a request before its route is reached."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from service.edge.access import Access
from service.edge.app import Edge
from service.edge.routes.table import ROUTES, Table
from service.edge.scoring.admission import InFlight
from service.runtime_dir import RuntimeDir
from service.served.catalog import ServedModel
from service.served.roster import Roster, RosterFile
from service.settings import Settings
from service.shared import Flag


@pytest.fixture
def send(
    settings_of: Callable[..., Settings], catalog: Mapping[str, ServedModel], tmp_path: Path
) -> Callable[..., httpx.Response]:
    """Sends a request to a new edge that has the given settings."""
    RosterFile(RuntimeDir(tmp_path)).write(Roster.of(list(catalog.values())))

    def send_one(
        method: str, path: str, *, key: str = "", json: object = None, table: Table | None = None, **fields: object
    ) -> httpx.Response:
        settings = settings_of(**fields)
        access = Access(settings, http_processes=1)
        app = Edge(
            None,
            settings=settings,
            access=access,
            runtime_dir=RuntimeDir(tmp_path),
            draining=Flag(),
            sockets=[],
            in_flight=InFlight(processes=1, limit=settings.max_concurrent_requests),
            explanations=InFlight(processes=1, limit=8 if settings.explain_steps else 0),
            http_processes=1,
        )
        app.table = table or app.table

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                return await client.request(method, path, headers={"x-api-key": key}, json=json)

        return asyncio.run(ask())

    return send_one


@pytest.fixture
def get_info(send: Callable[..., httpx.Response]) -> Callable[..., httpx.Response]:
    """Sends `GET /info`, which here counts as a route that changes the service."""
    table = Table([replace(route, admin=True) if route.path == "/info" else route for route in ROUTES])
    return lambda key, **fields: send("GET", "/info", key=key, table=table, **fields)


@pytest.mark.parametrize(
    ("fields", "key", "status"),
    [
        ({"api_key": "client", "admin_key": "admin"}, "admin", 200),
        ({"api_key": "client", "admin_key": "admin"}, "client", 403),
        ({"api_key": "client", "admin_key": "admin"}, "", 401),
        ({"admin_key": "admin"}, "admin", 200),
        ({"admin_key": "admin"}, "", 401),
        ({"admin_key": "admin", "open_routes": "/info"}, "", 401),
        ({"api_key": "client"}, "client", 403),
        ({}, "", 403),
    ],
)
def test_a_route_that_changes_the_service_takes_an_admin_key(
    get_info: Callable[..., httpx.Response], fields: dict[str, object], key: str, status: int
) -> None:
    answer = get_info(key, **fields)
    assert answer.status_code == status
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


@pytest.mark.parametrize("body", [{"inputs": "good"}, {"inputs": 3}, {}])
def test_explanations_are_off_unless_asked_for(send: Callable[..., httpx.Response], body: dict[str, object]) -> None:
    answer = send("POST", "/explain", json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")


def test_an_explanation_takes_a_key(send: Callable[..., httpx.Response]) -> None:
    assert send("POST", "/explain", json={"inputs": "good"}, api_key="client", explain_steps=8).status_code == 401


def test_an_explanation_without_a_worker_is_refused(send: Callable[..., httpx.Response]) -> None:
    answer = send("POST", "/explain", json={"inputs": "good"}, explain_steps=8)
    assert (answer.status_code, answer.json()["error_type"]) == (503, "unhealthy")
