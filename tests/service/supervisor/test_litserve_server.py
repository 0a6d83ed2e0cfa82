"""New connections are distributed among the sockets of the HTTP processes, and none is lost when these close."""

import socket
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from service.supervisor.litserve_server import refuse_connections, sharing_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux deals connections out")
CONNECTIONS = 200


@pytest.fixture
def first() -> Iterator[socket.socket]:
    """A socket, bound as uvicorn binds it."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound


def test_each_gets_its_part(first: socket.socket) -> None:
    sockets = sharing_port(first, 4)
    for one in sockets:
        one.listen(CONNECTIONS)
        one.setblocking(False)
    clients = [socket.create_connection(first.getsockname(), timeout=5) for _ in range(CONNECTIONS)]
    accepted: Counter[int] = Counter()
    for place, one in enumerate(sockets):
        while True:
            try:
                connection, _ = one.accept()
            except BlockingIOError:
                break
            connection.close()
            accepted[place] += 1
    for one in (*clients, *sockets[1:]):
        one.close()
    assert accepted.total() == CONNECTIONS
    assert all(CONNECTIONS / 10 < accepted[place] < CONNECTIONS / 2 for place in range(4)), accepted


def test_one_process_keeps_its_socket(first: socket.socket) -> None:
    assert sharing_port(first, 1) == [first]


def test_a_second_service_still_finds_the_port_taken(first: socket.socket) -> None:
    sockets = sharing_port(first, 2)
    for one in sockets:
        one.listen()
    with socket.socket() as second:
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            second.bind(first.getsockname())
    sockets[1].close()


def test_a_socket_that_is_about_to_close_takes_no_connection_and_keeps_those_that_it_has(first: socket.socket) -> None:
    first.listen()
    with socket.create_connection(first.getsockname(), timeout=5) as early:
        refuse_connections(first)
        with socket.socket() as late:
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):
                late.connect(first.getsockname())
        early.sendall(b"a")
        accepted, _ = first.accept()
        with accepted:
            assert accepted.recv(1) == b"a"
            first.shutdown(socket.SHUT_RDWR)
            early.sendall(b"b")
            assert accepted.recv(1) == b"b"
