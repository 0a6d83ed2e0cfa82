"""The edge alone, called as uvicorn calls it: what it asks of a request before its route is reached."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import pytest

from service import edge
from service.access import Access
from service.catalog import ServedModel
from service.edge import Edge
from service.roster import Roster, RosterFile
from service.settings import Settings


@pytest.fixture
def get_info(
    settings_of: Callable[..., Settings],
    catalog: Mapping[str, ServedModel],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[..., httpx.Response]:
    """`GET /info`, made a route that changes the service."""
    monkeypatch.setattr(edge, "ADMIN_ROUTES", frozenset({("GET", "/info")}))

    RosterFile(tmp_path).write(Roster.of(list(catalog.values())))

    def get(key: str, **fields: object) -> httpx.Response:
        settings = settings_of(**fields)
        access = Access(settings, http_processes=1)
        app = Edge(
            None,
            settings=settings,
            access=access,
            runtime_dir=tmp_path,
            draining=tmp_path / "draining",
            sockets=[],
            http_processes=1,
        )

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                return await client.get("/info", headers={"x-api-key": key})

        return asyncio.run(ask())

    return get


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
