"""uvicorn, with a bound on how long a request's header may take."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_runtime.errors import ConfigError, FormatError

HEADER_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 30
STOP_SECONDS = 30
MAX_CONNECTIONS = 512


class PatientProtocol(H11Protocol):
    """Closes a connection whose next request has begun, or never begun, and does not get on.

    uvicorn has a time limit between requests only. h11 bounds a header's size; httptools does not.
    """

    header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._header_missing():
            self._wait_for_header()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _header_missing(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait_for_header(self) -> None:
        if self.header_timer is None:
            self.header_timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self.header_timer is not None:
            self.header_timer.cancel()
            self.header_timer = None

    def _give_up(self) -> None:
        self.header_timer = None
        if self._header_missing() and not self.transport.is_closing():
            self.transport.close()


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, which does not listen yet; port 0 takes a free one.

    Raises:
        ConfigError: no such address here, or the port is taken.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        return bound
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen at {host}, port {port}: {reason}") from None


@dataclass(frozen=True)
class Certificate:
    """Files for TLS, in PEM.

    Raises:
        FormatError: they cannot be read, or do not belong together.
    """

    certificate: Path
    key: Path

    def __post_init__(self) -> None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise FormatError(
                f"{self.certificate} and {self.key} are no certificate with its key "
                f"({error.strerror or error})"
            ) from None


def run(app: Any, bound: socket.socket, tls: Certificate | None = None) -> None:
    """Serves until SIGINT or SIGTERM; answers what was accepted, then returns."""
    uvicorn.Server(configure(app, tls)).run(sockets=[bound])


def configure(app: Any, tls: Certificate | None = None) -> uvicorn.Config:
    """uvicorn's settings, with every bound that it has."""
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
