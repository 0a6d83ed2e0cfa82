"""The edge alone, called as uvicorn calls it: what it asks of a request before its route is reached."""

import asyncio
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from service.edge import app
from service.edge.access import Access
from service.edge.app import Edge
from service.edge.http import errors
from service.edge.routes.table import ROUTES, Table
from service.edge.scoring.admission import InFlight
from service.edge.scoring.under_way import TokensUnderWay
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

    def send_one(
        method: str,
        path: str,
        *,
        key: str = "",
        json: object = None,
        table: Table | None = None,
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> httpx.Response:
        runtime_dir = RuntimeDir(Path(tempfile.mkdtemp(dir=tmp_path)))
        RosterFile(runtime_dir).write(Roster.of(list(catalog.values())))
        settings = settings_of(**fields)
        access = Access(settings, http_processes=1)
        edge = Edge(
            None,
            settings=settings,
            access=access,
            runtime_dir=runtime_dir,
            draining=Flag(),
            sockets=[],
            in_flight=InFlight(processes=1, limit=settings.max_concurrent_requests),
            under_way=TokensUnderWay(processes=1, workers=1),
            explanations=InFlight(processes=1, limit=8 if settings.explain_steps else 0),
            http_processes=1,
        )
        edge.table = table or edge.table

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://test") as client:
                return await client.request(method, path, headers={"x-api-key": key, **(headers or {})}, json=json)

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


# -- pages of other origins ---------------------------------------------------------------------------------------------------

ORIGIN = "https://a.example"
ASKED = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


@pytest.mark.parametrize("origins", [ORIGIN, "https://b.example,https://a.example", "*"])
def test_a_page_of_a_named_origin_may_use_the_service(send: Callable[..., httpx.Response], origins: str) -> None:
    asked = send("OPTIONS", "/predict", headers=ASKED, cors_origins=origins, api_key="client")
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert asked.headers["access-control-allow-methods"] == "POST"
    assert asked.headers["access-control-allow-headers"] == "authorization,content-type"
    for path, status in (("/health", 200), ("/info", 401), ("/none", 404)):
        answer = send("GET", path, headers={"origin": ORIGIN}, cors_origins=origins, api_key="client")
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, ORIGIN)
        assert "origin" in answer.headers["vary"]


@pytest.mark.parametrize(
    ("origins", "headers"),
    [
        ("", ASKED),
        ("https://b.example", ASKED),
        ("https://a.example.evil", ASKED),
        ("*", {name: value for name, value in ASKED.items() if name != "origin"}),
        ("*", {"origin": ORIGIN}),
    ],
)
def test_no_other_page_may(send: Callable[..., httpx.Response], origins: str, headers: Mapping[str, str]) -> None:
    asked = send("OPTIONS", "/predict", headers=headers, cors_origins=origins)
    assert (asked.status_code, asked.headers["allow"]) == (405, "POST")
    assert "access-control-allow-methods" not in asked.headers
    if origins != "*":
        assert not [name for name in send("GET", "/health", headers=headers, cors_origins=origins).headers if "access" in name]


# -- behind a proxy -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/nlp", "/nlp/v1.2"])
def test_documentation_works_behind_a_prefix(send: Callable[..., httpx.Response], prefix: str) -> None:
    """As a browser resolves them, all links of the page lead to what is served, whether the proxy leaves its prefix or not."""
    base = f"https://proxy.example{prefix}/docs"
    links = re.findall(r'(?:src|href|url): ?"([^"]+)"|(?:src|href)="([^"]+)"', send("GET", "/docs").text)
    paths = [urljoin(base, one or other) for one, other in links if not (one or other).startswith("data:")]
    document = urljoin(base, "openapi.json")
    assert document in paths
    for path in (base, *paths):
        assert send("GET", urlsplit(path).path, root_path=prefix).status_code == 200
    (server,) = send("GET", f"{prefix}/openapi.json", root_path=prefix).json()["servers"]
    assert urljoin(document, server["url"]) == f"https://proxy.example{prefix}/"


def test_a_prefix_opens_nothing(send: Callable[..., httpx.Response]) -> None:
    for path, status in (
        ("/nlp/health", 200),
        ("/nlp/info", 401),
        ("/nlp/v2/models/a/ready", 401),
        ("/nlphealth", 404),
        ("/info", 401),
    ):
        assert send("GET", path, root_path="/nlp", api_key="client").status_code == status
    assert send("GET", "/nlp/v2/models/tiny-bert", root_path="/nlp").json()["name"] == "tiny-bert"


@pytest.mark.parametrize("path", ["/health", "/docs", "/openapi.json", "/nlp/health", "/info"])
def test_what_a_client_says_of_proxies_changes_nothing(send: Callable[..., httpx.Response], path: str) -> None:
    said = {
        "x-forwarded-prefix": "/nlp", "x-forwarded-for": "127.0.0.1", "x-forwarded-host": "evil.example",
        "x-forwarded-proto": "https", "forwarded": "for=127.0.0.1;host=evil.example", "x-original-url": "/health",
    }  # fmt: skip
    plain, forwarded = (send("GET", path, headers=headers) for headers in ({}, said))
    assert (forwarded.status_code, forwarded.content) == (plain.status_code, plain.content)


def test_an_answer_is_counted_from_zero(send: Callable[..., httpx.Response]) -> None:
    """The lines are there before the first request that they count."""
    lines = send("GET", "/metrics").text.splitlines()
    zero = 'valence_requests_total{model="tiny-bert",route="/predict",status="200"} 0.0'
    assert zero in lines
    assert 'valence_request_duration_seconds_count{model="tiny-lstm"} 0.0' in lines


def test_every_error_type_is_listed() -> None:
    source = Path(errors.__file__).read_text() + Path(app.__file__).read_text()
    used = set(re.findall(r'ServiceError\(\s*\d+, "(\w+)"', source)) | set(
        re.findall(r'error_type(?:, response)? = "(\w+)"', source)
    )
    assert used <= set(errors.TYPES)
