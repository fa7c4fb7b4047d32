"""The device's side of a connection, against servers that do what servers should not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from edge_runtime import http_link
from edge_runtime.errors import ServerError
from edge_runtime.http_link import Link

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Scripted:
    """Answers requests with the given bytes, one after the other; "" closes the connection."""

    url: str
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0


@contextlib.contextmanager
def scripted(*answers: bytes, end: str = "close") -> Iterator[Scripted]:
    """A server with a script; after each answer that `end` says, it closes."""
    listening = socket.create_server(("127.0.0.1", 0))
    state = Scripted(f"http://127.0.0.1:{listening.getsockname()[1]}")
    left = list(answers)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                state.connections += 1
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(10)
                    converse(connection)

    def converse(connection: socket.socket) -> None:
        while left:
            request = b""
            while b"\r\n\r\n" not in request:
                piece = connection.recv(1 << 16)
                if not piece:
                    return
                request += piece
            state.requests.append(request)
            answer = left.pop(0)
            connection.sendall(answer)
            if end == "close" or not answer:
                return
            if end == "silence":
                connection.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        listening.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_link, "FIRST_WAIT", 0.01)


def test_a_connection_is_kept() -> None:
    with scripted(OK, OK, OK, end="keep") as server:
        link = Link(server.url + "/below/")
        for _ in range(3):
            assert link.request("GET", "/x", most=9).body == b"ok"
        link.close()
        assert server.connections == 1
        assert server.requests[0].startswith(b"GET /below/x HTTP/1.1\r\n")
    assert (link.traffic.up, link.traffic.down) == (0, 6)


def test_a_lost_connection_is_repeated() -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"
    chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok"
    with scripted(OK, b"", cut, chunk, b"nonsense\r\n\r\n", OK) as server:
        link = Link(server.url, token="t0", patience=5)
        for _ in range(2):
            assert link.request("POST", "/", b"body", most=9).body == b"ok"
        assert len(server.requests) == 6
        assert all(b"Authorization: Bearer t0" in request for request in server.requests)


def test_busy_servers_are_given_the_time_they_ask_for() -> None:
    later = BUSY.replace(b"\r\n\r\n", b"\r\nRetry-After: 1\r\n\r\n")
    with scripted(BUSY, later, OK, end="keep") as server:
        begin = time.monotonic()
        assert Link(server.url).request("GET", "/", most=9).body == b"ok"
        assert 1 <= time.monotonic() - begin < 3


@pytest.mark.parametrize("answer", [BUSY, b""])
def test_patience_ends(answer: bytes) -> None:
    with scripted(OK, *[answer] * 100) as server:
        link = Link(server.url, patience=0.3)
        link.request("GET", "/", most=9)
        begin = time.monotonic()
        with pytest.raises(ServerError, match=r"cannot be reached: (it is busy|the connection)"):
            link.request("GET", "/", most=9)
        assert time.monotonic() - begin < 2


def test_silence_is_a_lost_connection() -> None:
    with scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", end="silence") as server:
        link = Link(server.url, timeout=0.2, patience=1)
        with pytest.raises(ServerError, match="no answer in time"):
            link.request("GET", "/", most=9)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n0123456789",
    ],
)
def test_an_answer_that_is_too_long_is_refused(answer: bytes) -> None:
    with scripted(answer) as server, pytest.raises(ServerError, match="more than the 9 bytes"):
        Link(server.url).request("GET", "/", most=9)


def test_redirects_are_not_followed() -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
    with scripted(moved, OK, end="keep") as server:
        assert Link(server.url, token="t").request("GET", "/", most=9).status == 302
        assert len(server.requests) == 1
