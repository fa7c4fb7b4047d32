"""HTTP with the standard library: one connection kept alive, bounded retries, bounded answers.

What a server may make us do is bounded: an answer has a largest size, a silence a longest time, and
a request a longest time for retries. Redirects are not followed: they could carry the token away.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from edge_runtime.errors import ConfigError, ServerError
from edge_runtime.plain_http import http_client

if TYPE_CHECKING:
    import http.client
    import ssl

FIRST_WAIT, LONGEST_WAIT = 0.25, 10.0
LONGEST_RETRY_AFTER = 60.0
MAX_ERROR_BYTES = 1 << 16


@dataclass(frozen=True)
class Answer:
    """An answer of any status but 503; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Traffic:
    """Bytes of the bodies that went up and came down."""

    up: int = 0
    down: int = 0


class Link:
    """Requests to one server; `url` is http or https, with a path if the server lies below one.

    Args:
        token: sent as a bearer token.
        ca: file of certificates to trust instead of the system's.
        timeout: seconds of silence after which a connection counts as lost.
        patience: seconds for which a request is repeated after a lost connection, or a 503. The
            first request is not repeated where no connection comes about.

    Raises:
        ConfigError: not such a URL, or no such file.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca: Path | None = None,
        timeout: float = 60.0,
        patience: float = 60.0,
    ):
        self.url = url.rstrip("/")
        self._secure, self._host, self._port, self._prefix = _parts(self.url)
        self._http = http_client(self._secure)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._context = _context(ca) if self._secure else None
        if ca is not None and not self._secure:
            raise ConfigError(f"--ca is for https; {url} is http")
        self._timeout, self._patience = timeout, patience
        self._connection: http.client.HTTPConnection | None = None
        self._reached = False
        self.traffic = Traffic()

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] = {},
        *,
        most: int,
    ) -> Answer:
        """Sends a request until it is answered; requests must be such that repeating does no harm.

        Args:
            path: below the URL, percent-encoded.
            most: bytes of the answer's body; a longer answer is an error.

        Raises:
            ServerError: no answer in time, an answer that is too long, or a refused certificate.
        """
        began: float | None = None
        wait = FIRST_WAIT
        while True:
            reused = self._connection is not None
            try:
                answer = self._once(method, path, body, {**self._headers, **headers}, most)
            except (OSError, self._http.HTTPException) as error:
                self.close()
                self._refuse_untrusted(error)
                if reused and began is None:  # a server may close a connection that was idle
                    began = time.monotonic()
                    continue
                reason, pause = _reason(error), 0.0
            else:
                if answer.status != 503:
                    self._reached = True
                    return answer
                self._reached = True
                reason, pause = "it is busy (503)", _retry_after(answer)
            now = time.monotonic()
            began = now if began is None else began
            pause = max(pause, random.uniform(wait / 2, wait))
            if not self._reached or now + pause - began > self._patience:
                raise ServerError(f"{self.url} cannot be reached: {reason}")
            time.sleep(pause)
            wait = min(2 * wait, LONGEST_WAIT)

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _once(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        most: int,
    ) -> Answer:
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        connection.request(method, self._prefix + path, body, dict(headers))
        self.traffic.up += len(body or b"")
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        data = self._read(response, most if response.status < 300 else max(most, MAX_ERROR_BYTES))
        self.traffic.down += len(data)
        if response.will_close:
            self.close()
        return Answer(response.status, found, data)

    def _read(self, response: http.client.HTTPResponse, most: int) -> bytes:
        """The whole body.

        Raises:
            ServerError: it is longer than `most`.
            http.client.IncompleteRead: it broke off.
        """
        announced = response.length
        data = b"" if (announced or 0) > most else response.read(most + 1)
        if max(announced or 0, len(data)) > most:
            self.close()
            raise ServerError(f"{self.url} sends more than the {most} bytes that make sense here")
        if announced is not None and len(data) != announced:
            raise self._http.IncompleteRead(data, announced - len(data))
        return data

    def _connect(self) -> http.client.HTTPConnection:
        if self._context is None:
            return self._http.HTTPConnection(self._host, self._port, timeout=self._timeout)
        return self._http.HTTPSConnection(
            self._host, self._port, timeout=self._timeout, context=self._context
        )

    def _refuse_untrusted(self, error: BaseException) -> None:
        """Raises ServerError for a certificate that is not trusted: repeating would not help."""
        if self._context is None:
            return
        import ssl

        if isinstance(error, ssl.SSLError):
            why = getattr(error, "verify_message", "") or error.reason or error
            raise ServerError(
                f"{self.url}: no trusted connection ({why}); give the server's certificate "
                f"authority with --ca"
            ) from None


def _parts(url: str) -> tuple[bool, str, int | None, str]:
    """(whether https, host, port, path before all paths)."""
    wrong = ConfigError(f"{url!r} is no server's URL; expected such as http://192.168.1.10:8000")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username is not None
        or parts.query
        or parts.fragment
        or not url.isascii()
        or not url.isprintable()
        or " " in url
    ):
        raise wrong
    return parts.scheme == "https", parts.hostname, port, parts.path


def _context(ca: Path | None) -> ssl.SSLContext:
    import ssl

    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError):
        raise ConfigError(f"--ca {ca}: expected a file of certificates in PEM") from None


def _reason(error: BaseException) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, TimeoutError) or "timed out" in str(error):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or "the connection broke off"
    return "the connection broke off"


def _retry_after(answer: Answer) -> float:
    """Seconds that a 503 asks for; 0 where it does not say."""
    with suppress(ValueError):
        seconds = float(answer.headers.get("retry-after", "0"))
        if seconds > 0:
            return min(seconds, LONGEST_RETRY_AFTER)
    return 0.0
