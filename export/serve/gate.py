"""What every request passes: the token, bounds on its body, metrics and the access log (ASGI)."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import MutableMapping
from typing import Any

import anyio
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from export.serve.metrics import Metrics

ACCESS_LOG = logging.getLogger("edgetune.access")
OPEN_PATHS = ("/v2/health/live", "/v2/health/ready")  # for probes; they name nothing
SEND_SECONDS = 60.0
REFUSAL = JSONResponse(
    {"error": "a valid bearer token is needed"}, 401, {"WWW-Authenticate": "Bearer"}
)


class Gate:
    """Refuses requests without one of `tokens` (if there are any); counts and logs all.

    A line of the access log is a JSON object; it holds neither tokens nor queries.
    """

    def __init__(self, app: ASGIApp, tokens: frozenset[str], metrics: Metrics):
        self._app, self._metrics = app, metrics
        self._tokens = [token.encode() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = received = sent = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status, sent
            status = message.get("status", status)
            sent += len(message.get("body", b""))
            with anyio.fail_after(SEND_SECONDS):
                await send(message)

        app = self._app if self._allowed(scope) else REFUSAL
        try:
            await app(scope, counted_receive, counted_send)
        finally:
            seconds = time.perf_counter() - start
            endpoint = getattr(scope.get("endpoint"), "__name__", "none")
            status = status or 500
            self._metrics.request(endpoint, status, seconds, received, sent)
            self._log(scope, status, seconds, received, sent)

    def _allowed(self, scope: Scope) -> bool:
        if not self._tokens or scope["path"] in OPEN_PATHS:
            return True
        given = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                kind, _, given = value.partition(b" ")
                if kind.lower() != b"bearer":
                    return False
        return any(hmac.compare_digest(token, given.strip()) for token in self._tokens)

    def _log(
        self, scope: MutableMapping[str, Any], status: int, seconds: float, received: int, sent: int
    ) -> None:
        client = scope.get("client") or ("", 0)
        record = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "client": client[0],
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "ms": round(seconds * 1000, 2),
            "bytes_in": received,
            "bytes_out": sent,
            **scope.get("edgetune", {}),
        }
        ACCESS_LOG.info(json.dumps(record))
