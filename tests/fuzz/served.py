"""The whole server as one reader: a request as it would come over a socket, but without one.

An answer of 500, or an exception, is a finding.
"""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from edge_runtime.backbone import Backbone
from edge_runtime.features import FeatureFolder
from tests.edge_runtime import tiny_backbone

TOKEN = b"of the test"


@functools.cache
def server(folder: Path, features: FeatureFolder) -> tuple[asyncio.AbstractEventLoop, Any]:
    """A loop, and an app in it that serves the tiny backbone and publishes features."""
    from export.serve.app import Settings, create_app
    from export.serve.batching import Limits

    backbone = Backbone.open(tiny_backbone.write_backbone(folder), 1)
    settings = Settings(
        Limits(max_batch=4, max_queue=16), 1 << 16, tokens=frozenset({TOKEN.decode()})
    )
    return asyncio.new_event_loop(), create_app(backbone, settings, features=features)


def request(data: bytes, loop: asyncio.AbstractEventLoop, app: Any) -> int:
    """Status of the answer to a request in HTTP/1.1's form, its lines ended by LF alone."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    method, _, target = first.partition(b" ")
    path, _, query = target.partition(b"?")
    headers = [(b"authorization", b"Bearer " + TOKEN)]
    for line in lines:
        name, _, value = line.partition(b":")
        headers.append((name.strip().lower(), value.strip()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method.decode("latin-1").upper(),
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
    }
    half = len(body) // 2
    pieces = [
        {"type": "http.request", "body": body[:half], "more_body": True},
        {"type": "http.request", "body": body[half:], "more_body": False},
    ]
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    loop.run_until_complete(app(scope, receive, send))
    return statuses[0]


def seeds() -> list[bytes]:
    """Requests that are answered well: metadata, files, images in both forms of the protocol."""
    import numpy as np

    from edge_runtime import open_inference

    pixels = np.zeros((1, tiny_backbone.SIZE, tiny_backbone.SIZE, 3), np.uint8)
    found = [
        b"GET /v2\n\n",
        b"GET /v2/models/tiny\nAccept: application/json\n\n",
        b"POST /v2/repository/index\n\n",
        b"GET /metrics\n\n",
        b"GET /backbone/manifest.json\nRange: bytes=3-9,20-\n\n",
        b"GET /features/manifest.json\nRange: bytes=-5\nIf-Range: x\n\n",
    ]
    for in_json in ([], ["images"]):
        asked: dict[str, Any] = {"id": "7", "outputs": [{"name": "features"}]}
        body, length = open_inference.build(asked, "inputs", {"images": pixels}, in_json)
        announced = b"" if length is None else b"\nInference-Header-Content-Length: %d" % length
        found.append(b"POST /v2/models/tiny/infer" + announced + b"\n\n" + body)
    return found
