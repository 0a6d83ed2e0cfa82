"""Who is let in, and the limits of a key."""

import hmac
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from service.edge import access
from service.edge.access import Access, KeyLimits, find_key, sent_key
from service.edge.http.errors import ServiceError
from service.edge.keys import Key, KeysError, digest
from service.settings import Settings

CLIENT = b"the-key-of-a-client"
ADMIN = b"the-key-of-an-admin"
WithKeys = Callable[..., Access]


@pytest.fixture
def with_keys(tmp_path: Path) -> WithKeys:
    """Access with a file that holds `client` and, unless `admin=False`, `ops`."""

    def make(*, admin: bool = True, http_processes: int = 1, **fields: object) -> Access:
        path = tmp_path / "keys"
        path.touch(0o600)
        path.write_text(f"client:{CLIENT.decode()}\n" + (f"admin ops:{ADMIN.decode()}\n" if admin else ""))
        return Access(Settings(api_keys_file=path, **fields), http_processes=http_processes)

    return make


def refusal(granted: Access, key: bytes, *, admin: bool = False) -> ServiceError | None:
    try:
        with granted.granted({b"x-api-key": key}, admin=admin):
            return None
    except ServiceError as error:
        return error


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, b""),
        ({b"x-api-key": b"k"}, b"k"),
        ({b"authorization": b"Bearer k"}, b"k"),
        ({b"authorization": b"bearer  k"}, b"k"),
        ({b"authorization": b"Bearer"}, b""),
        ({b"authorization": b"k"}, b""),
        ({b"authorization": b"Basic k"}, b""),
        ({b"x-api-key": b"k", b"authorization": b"Bearer other"}, b"k"),
    ],
)
def test_the_key_is_read_from_either_header(headers: dict[bytes, bytes], key: bytes) -> None:
    assert sent_key(headers) == key


@pytest.mark.parametrize("place", [0, 1, 2, None])
def test_a_key_is_compared_with_every_key(monkeypatch: pytest.MonkeyPatch, place: int | None) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes, really: Callable[[bytes, bytes], bool] = hmac.compare_digest) -> bool:
        compared.append((one, other))
        return really(one, other)

    monkeypatch.setattr(access.hmac, "compare_digest", compare)
    keys = tuple(Key(str(number), digest(b"%d" % number)) for number in range(3))
    assert find_key(keys, b"no key" if place is None else b"%d" % place) is (None if place is None else keys[place])
    assert [one for one, _ in compared] == [key.digest for key in keys]
    assert {len(side) for pair in compared for side in pair} == {32}


@pytest.mark.parametrize(
    ("fields", "path", "opened"),
    [
        ({}, "/predict", True),
        ({"admin_key": "a"}, "/predict", True),
        ({"api_key": "k"}, "/predict", False),
        ({"api_key": "k"}, "/", False),
        ({"api_key": "k"}, "/info", False),
        ({"api_key": "k"}, "/health", True),
        ({"api_key": "k"}, "/healthy", False),
        ({"api_key": "k"}, "/v2/health/ready", True),
        ({"api_key": "k"}, "/v2/models/a/infer", False),
        ({"api_key": "k"}, "/metrics", True),
        ({"api_key": "k", "open_routes": ("/health",)}, "/metrics", False),
        ({"api_key": "k", "open_routes": ()}, "/health", False),
    ],
)
def test_routes_are_open_as_the_operator_says(fields: dict[str, object], path: str, opened: bool) -> None:
    assert Access(Settings(**fields), http_processes=1).opens(path) is opened


@pytest.mark.parametrize(
    ("key", "admin", "status"),
    [
        (CLIENT, False, None),
        (ADMIN, False, None),
        (b"the-key-of-nobody", False, 401),
        (CLIENT[:-1], False, 401),
        (b"", False, 401),
        (ADMIN, True, None),
        (CLIENT, True, 403),
        (b"the-key-of-nobody", True, 401),
    ],
)
def test_a_key_opens_what_it_is_for(with_keys: WithKeys, key: bytes, admin: bool, status: int | None) -> None:
    error = refusal(with_keys(), key, admin=admin)
    assert (error and error.status) == status


def test_keys_of_settings_and_file_hold_side_by_side(with_keys: WithKeys) -> None:
    both = with_keys(api_key="from-the-setting", admin_key="admin-of-the-setting")
    assert [refusal(both, key) for key in (CLIENT, b"from-the-setting", b"admin-of-the-setting")] == [None] * 3
    assert [refusal(both, key, admin=True) for key in (ADMIN, b"admin-of-the-setting")] == [None] * 2
    assert refusal(both, b"from-the-setting", admin=True) is not None


@pytest.mark.parametrize("key", [CLIENT, ADMIN, b""])
def test_admin_routes_are_closed_without_an_admin_key(with_keys: WithKeys, key: bytes) -> None:
    error = refusal(with_keys(admin=False), key, admin=True)
    assert error is not None
    assert (error.status, error.error_type) == (403, "forbidden")


@pytest.mark.parametrize("fields", [{"key_requests_per_s": 1.0}, {"key_concurrent_requests": 1, "admin_key": "a"}])
def test_limits_without_keys_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(KeysError, match="set --api-key or --api-keys-file"):
        Access(Settings(**fields), http_processes=1)


# -- limits -----------------------------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(access, "time", clock)
    return clock


def passed(limits: KeyLimits, name: str, tries: int) -> int:
    return sum(wait_s(limits, name) is None for _ in range(tries))


def wait_s(limits: KeyLimits, name: str) -> int | None:
    """The wait in seconds that a refusal asks for; None for a request that passes."""
    try:
        with limits.held(name):
            return None
    except ServiceError as error:
        return error.retry_after_s if error.status == 429 else -1


@pytest.mark.parametrize(("per_s", "processes", "burst"), [(5.0, 1, 5), (10.0, 2, 10), (0.5, 1, 1), (1.0, 4, 1)])
def test_a_key_has_a_second_of_its_rate_at_once(clock: Clock, per_s: float, processes: int, burst: int) -> None:
    limits = KeyLimits(Settings(key_requests_per_s=per_s), http_processes=processes)
    assert passed(limits, "a", 20) == burst
    assert passed(limits, "b", 20) == burst
    clock.now += 1000
    assert passed(limits, "a", 20) == burst


@pytest.mark.parametrize(("per_s", "processes", "told"), [(5.0, 1, 1), (0.5, 1, 2), (1.0, 4, 1), (0.3, 1, 4)])
def test_retry_after_is_when_the_next_request_passes(clock: Clock, per_s: float, processes: int, told: int) -> None:
    limits = KeyLimits(Settings(key_requests_per_s=per_s), http_processes=processes)
    passed(limits, "a", 20)
    assert wait_s(limits, "a") == told
    clock.now += 1 / per_s - 0.01
    assert wait_s(limits, "a") == 1
    clock.now += 1
    assert wait_s(limits, "a") is None


def test_a_key_holds_so_many_requests_at_once() -> None:
    limits = KeyLimits(Settings(key_concurrent_requests=3), http_processes=2)
    with limits.held("a"), limits.held("a"), limits.held("a"):
        assert wait_s(limits, "a") == 1
        assert wait_s(limits, "b") is None
    assert wait_s(limits, "a") is None


def test_a_request_that_fails_gives_its_place_back() -> None:
    limits = KeyLimits(Settings(key_concurrent_requests=1), http_processes=1)
    with pytest.raises(ZeroDivisionError), limits.held("a"):
        _ = 1 / 0
    assert wait_s(limits, "a") is None


def test_without_limits_all_pass() -> None:
    limits = KeyLimits(Settings(), http_processes=1)
    assert passed(limits, "a", 1000) == 1000


def in_another_process(work: Callable[[], None]) -> None:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(10)
    assert process.exitcode == 0


def test_all_processes_share_a_keys_rate(clock: Clock) -> None:
    limits = KeyLimits(Settings(key_requests_per_s=5), http_processes=2)
    assert passed(limits, "a", 3) == 3

    def rest() -> None:
        limits.enter(1)
        assert passed(limits, "a", 20) == 2

    in_another_process(rest)
    assert passed(limits, "a", 20) == 0
    assert passed(limits, "b", 20) == 5


def test_all_processes_share_a_keys_requests_in_flight() -> None:
    limits = KeyLimits(Settings(key_concurrent_requests=2), http_processes=2)

    def dies_with_one() -> None:
        limits.enter(1)
        with limits.held("a"), limits.held("b"):
            assert wait_s(limits, "a") is None
            os._exit(0)

    in_another_process(dies_with_one)
    with limits.held("a"):
        assert wait_s(limits, "a") == 1
        limits.enter(1)  # the next process takes the place of the one that is gone
        assert wait_s(limits, "a") is None


def test_keys_that_come_and_go_do_not_fill_the_memory(clock: Clock) -> None:
    limits = KeyLimits(Settings(key_requests_per_s=1), http_processes=1)
    for number in range(access.SLOTS + 100):
        clock.now += 1.5
        assert wait_s(limits, f"key-{number}") is None
        assert wait_s(limits, f"key-{number}") == 1
