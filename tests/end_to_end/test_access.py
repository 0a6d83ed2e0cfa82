"""Keys from a file on a real server: who is let in while the file changes, and how often. The tests of a server run in order."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

SAFETY_S = 60
SHOP, BANK, NEW, ADMIN = "shop-key-0123456789", "bank-key-0123456789", "new-key-0123456789", "admin-key-0123456789"
SECRETS = (SHOP, BANK, NEW, ADMIN, "key-of-the-setting", "wrong-key")
KEYS = f"# clients\nshop:{SHOP}\nbank:sha256={sha256(BANK.encode()).hexdigest()}\nadmin ops:{ADMIN}\n"


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    write(path, KEYS)
    return path


@pytest.fixture(scope="module")
def guarded(start_server: Callable[..., Any], keys_file: Path) -> Any:
    """A server with two HTTP processes, so that each must follow the file."""
    flags = ("--api-keys-file", str(keys_file), "--api-key", "key-of-the-setting", "--open-routes", "/health,/ready")
    return start_server("--http-processes", "2", *flags, headers={"x-api-key": "key-of-the-setting"})


def write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(path)


def ask(server: Any, headers: Mapping[str, str], path: str = "/predict") -> httpx.Response:
    """Sends a request on a connection of its own, which any HTTP process may take."""
    with httpx.Client(base_url=server.url, headers=headers, timeout=SAFETY_S, trust_env=False) as client:
        return client.post(path, json={"inputs": "good"}) if path == "/predict" else client.get(path)


def statuses(server: Any, key: str, count: int = 16) -> set[int]:
    return {ask(server, {"x-api-key": key}).status_code for _ in range(count)}


@contextmanager
def connected(server: Any) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=SAFETY_S) as connection:
        yield connection


@pytest.mark.parametrize("key", [SHOP, BANK, ADMIN, "key-of-the-setting"])
@pytest.mark.parametrize("form", [{"x-api-key": "{}"}, {"authorization": "Bearer {}"}, {"authorization": "bearer {}"}])
def test_each_key_is_taken_in_each_form(guarded: Any, key: str, form: Mapping[str, str]) -> None:
    assert ask(guarded, {name: value.format(key) for name, value in form.items()}).status_code == 200


@pytest.mark.parametrize("key", ["wrong-key", SHOP[:-1], SHOP + "0", sha256(BANK.encode()).hexdigest(), "shop", ""])
def test_another_key_is_401(guarded: Any, key: str) -> None:
    answer = ask(guarded, {"x-api-key": key})
    assert (answer.status_code, answer.json()["error_type"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("path", "with_key", "without"), [("/health", 200, 200), ("/ready", 200, 200), ("/metrics", 200, 401), ("/info", 200, 401)]
)
def test_the_operator_says_what_is_open(guarded: Any, path: str, with_key: int, without: int) -> None:
    assert ask(guarded, {"x-api-key": SHOP}, path).status_code == with_key
    assert ask(guarded, {}, path).status_code == without


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_documentation_is_closed_where_it_is_not_open(guarded: Any, path: str) -> None:
    assert ask(guarded, {}, path).status_code in (401, 404)


@pytest.mark.parametrize("path", ["/predict", "/health", "/none"])
@pytest.mark.parametrize("key", [SHOP, "wrong-key"])
def test_every_answer_is_safe_to_pass_on(guarded: Any, path: str, key: str) -> None:
    headers = ask(guarded, {"x-api-key": key}, path).headers
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
    assert "server" not in headers


@pytest.mark.parametrize("length", ["content-length: 2000000", "content-length: 900", "transfer-encoding: chunked"])
def test_without_a_key_no_body_is_waited_for(guarded: Any, length: str) -> None:
    with connected(guarded) as connection:
        connection.sendall(f"POST /predict HTTP/1.1\r\nhost: test\r\n{length}\r\nexpect: 100-continue\r\n\r\n".encode())
        connection.settimeout(SAFETY_S / 4)
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")  # without a 100 before it


def test_of_a_refused_body_nothing_is_kept(guarded: Any) -> None:
    """A client that sends all of its body before it reads finds its answer. The service drops what comes meanwhile."""
    (process, *_) = guarded.http_processes()
    before = process.memory_info().rss
    with connected(guarded) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: 500000000\r\n\r\n")
        connection.sendall(b" " * 500_000_000)
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")
        assert process.memory_info().rss - before < 50_000_000


def test_keys_change_while_requests_run(guarded: Any, keys_file: Path, wait: Callable[..., None]) -> None:
    stop = threading.Event()

    def bank_asks() -> set[int]:
        seen = set()
        while not stop.is_set():
            seen.add(ask(guarded, {"x-api-key": BANK}).status_code)
        return seen

    with ThreadPoolExecutor(2) as pool:
        banks = [pool.submit(bank_asks) for _ in range(2)]
        try:
            write(keys_file, KEYS.replace(SHOP, NEW))
            wait(lambda: statuses(guarded, NEW) == {200}, timeout_s=SAFETY_S, alive=guarded)
            wait(lambda: statuses(guarded, SHOP) == {401}, timeout_s=SAFETY_S, alive=guarded)
        finally:
            stop.set()
        assert [bank.result(SAFETY_S) for bank in banks] == [{200}, {200}]


def test_a_broken_file_keeps_the_keys(guarded: Any, keys_file: Path, wait: Callable[..., None]) -> None:
    write(keys_file, f"shop:{SHOP}\nbank {BANK}\n")
    wait(lambda: guarded.log.read_text().count("line 2: neither") == 2, timeout_s=SAFETY_S, alive=guarded)  # in both processes
    assert statuses(guarded, NEW) == {200}
    assert statuses(guarded, SHOP) == {401}
    write(keys_file, KEYS)
    wait(lambda: statuses(guarded, SHOP) == {200}, timeout_s=SAFETY_S, alive=guarded)


def test_no_key_is_logged_or_measured(guarded: Any) -> None:
    log, metrics = guarded.log.read_text(), guarded.client.get("/metrics").text
    assert "keys of bank, ops, shop" in log
    assert not [secret for secret in SECRETS if secret in log + metrics]
    assert not [name for name in ("shop", "bank", "ops") if re.search(rf"\b{name}\b", metrics)]


# -- limits of a key --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("keys") / "keys"
    write(path, KEYS)
    limits = ("--key-requests-per-s", "0.2", "--key-concurrent-requests", "2")
    return start_server("--http-processes", "1", "--api-keys-file", str(path), *limits, headers={"x-api-key": SHOP})


def test_a_key_over_its_rate_is_429_until_retry_after(limited: Any) -> None:
    first, second, other = (ask(limited, {"x-api-key": key}) for key in (SHOP, SHOP, BANK))
    assert (first.status_code, second.status_code, other.status_code) == (200, 429, 200)
    assert second.json() == {
        "error": "more than 0.2 requests a second with this API key; retry later",
        "error_type": "overloaded",
    }
    assert second.headers["retry-after"] in ("3", "4", "5")
    time.sleep(int(second.headers["retry-after"]))
    assert ask(limited, {"x-api-key": SHOP}).status_code == 200


def test_what_needs_no_key_has_no_limit_of_one(limited: Any) -> None:
    assert {ask(limited, {"x-api-key": SHOP}, "/health").status_code for _ in range(8)} == {200}


def test_a_key_holds_no_more_than_its_requests(start_server: Callable[..., Any], tmp_path: Path) -> None:
    write(tmp_path / "keys", KEYS)
    flags = ("--api-keys-file", str(tmp_path / "keys"), "--key-concurrent-requests", "2")
    server = start_server("--http-processes", "1", *flags, headers={"x-api-key": SHOP})
    with server.slow_requests(2) as accepted:
        refused = ask(server, {"x-api-key": SHOP})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert ask(server, {"x-api-key": BANK}).status_code == 200
        assert [future.result(SAFETY_S).status_code for future in accepted] == [200] * 2
    assert ask(server, {"x-api-key": SHOP}).status_code == 200


# -- start ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        (f"shop:{SHOP}\nbank={BANK}\n", "line 2: neither name:key nor"),
    ],
)
def test_a_bad_file_of_keys_stops_the_start_in_one_sentence(
    launch: Callable[..., tuple[int, str]], models: Mapping[str, Path], tmp_path: Path, content: str | None, said: str
) -> None:
    if content is not None:
        write(tmp_path / "keys", content)
    code, log = launch({"failing": models["failing"]}, "--api-keys-file", str(tmp_path / "keys"))
    assert code == 2
    (line,) = log.strip().splitlines()
    sentence = json.loads(line)["message"]
    assert sentence.startswith(f"--api-keys-file {tmp_path}/keys: ")
    assert said in sentence
    assert not [secret for secret in SECRETS if secret in log]
