"""Reading a request's body: bounded in size and time, and in the memory of all bodies together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request

from export.serve.batching import BusyError


@dataclass
class _Taken:
    """How much of the memory for bodies one request holds."""

    bytes: int = 0


class Bodies:
    """At most `max_body` bytes a request and `max_total` for those that are being worked on.

    Args:
        seconds: a body that takes longer is refused.
    """

    def __init__(self, max_body: int, max_total: int, seconds: float):
        self._max_body, self._max_total, self._seconds = max_body, max_total, seconds
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, for the length of the block.

        Raises:
            HTTPException: 400, 408, 413 or 415.
            BusyError: too many bodies at once.
        """
        self._check_headers(request)
        taken = _Taken()
        try:
            try:
                with anyio.fail_after(self._seconds):
                    body = await self._collect(request, taken)
            except TimeoutError:
                raise HTTPException(408, f"no whole body within {self._seconds:g} s") from None
            yield body
        finally:
            self._held -= taken.bytes

    async def _collect(self, request: Request, taken: _Taken) -> bytes:
        pieces: list[bytes] = []
        async for piece in request.stream():
            taken.bytes += len(piece)
            self._held += len(piece)
            if taken.bytes > self._max_body:
                raise self._too_large()
            if self._held > self._max_total:
                raise BusyError(1)
            pieces.append(piece)
        return b"".join(pieces)

    def _check_headers(self, request: Request) -> None:
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(415, "compressed bodies are not accepted")
        length = request.headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > self._max_body:
            raise self._too_large()

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body is larger than {self._max_body} bytes")
