"""Thousands of malformed requests: no crash, no 500, bounded memory, and it still answers."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.open_inference import JSON_LENGTH, build
from tests.edge_runtime.tiny_backbone import SIZE
from tests.serving import Running, in_process

MAX_BODY = 1 << 20
GROWTH_BYTES = 96 << 20
PATIENCE = 10.0
INFER = "/v2/models/tiny/infer"
IMAGES = np.full((2, SIZE, SIZE, 3), 7, np.uint8)
ODD: list[Any] = [None, True, -1, 0, 1.5, 1 << 70, "", "x" * 300, "\ud800", [], [[]], {}, {"": 0}]


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_malformed_requests(count: int, backbone_folder: Path, tmp_path: Path) -> None:
    rng = random.Random(count)
    options = ("--max-body", MAX_BODY, "--max-batch", 4)
    with in_process(tmp_path / "log", backbone_folder, *options) as (server, process):
        assert {send(server, [well_formed()], PATIENCE) for _ in range(50)} == {"200"}
        before = resident(process.pid)
        lingering = [connect(server) for _ in range(30)]
        for connection in lingering:
            connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n")
        requests = (in_pieces(malformed(rng), rng) for _ in range(count))
        seen: Counter[str] = Counter()
        with ThreadPoolExecutor(16) as pool:
            while some := list(islice(requests, 1000)):
                seen.update(pool.map(partial(send, server), some))
        for connection in lingering:
            connection.close()
        assert send(server, [well_formed()], PATIENCE) == "200"
        assert process.poll() is None
        assert resident(process.pid) - before < GROWTH_BYTES
    assert not [status for status in seen if status[:1] == "5" and status != "503"], seen
    assert seen["200"] <= count * 0.1, seen  # an image spoiled by a bit is still an image
    assert seen["400"] > count * 0.4, seen
    assert "Traceback" not in (tmp_path / "log").read_text()


def resident(process: int) -> int:
    """Resident memory now, in bytes."""
    found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1]) * 1024


def connect(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def send(server: Running, pieces: list[bytes], seconds: float = 0.3) -> str:
    """The status, or "" where the server closed the connection or waits for more."""
    with connect(server) as connection, contextlib.suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)
        connection.settimeout(seconds)
        return connection.recv(64)[9:12].decode()
    return ""


def in_pieces(data: bytes, rng: random.Random) -> list[bytes]:
    """The data at once, or in two."""
    cut = rng.choice([len(data), rng.randrange(len(data) + 1)])
    return [data[:cut], data[cut:]]


def http(headers: dict[str, str], body: bytes, path: str = INFER, method: str = "POST") -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode("latin-1") + body


def infer(body: bytes, length: int | None) -> bytes:
    json_length = {} if length is None else {JSON_LENGTH: str(length)}
    return http({"Content-Length": str(len(body)), **json_length}, body)


def well_formed() -> bytes:
    return infer(*build({}, "inputs", {"images": IMAGES}, []))


def malformed(rng: random.Random) -> bytes:
    return rng.choice([odd_json, odd_json, odd_tensor, odd_lengths, noise, odd_http, heavy])(rng)


def odd_json(rng: random.Random) -> bytes:
    """A sound JSON request with one of its values, at any depth, replaced or removed."""
    content = request_json(rng)
    spots = list(walk(content))
    holder, key = rng.choice(spots)
    if isinstance(holder, dict) and rng.random() < 0.3:
        del holder[key]
        if not content.get("outputs", 1):
            content["outputs"] = 0
    else:
        holder[key] = rng.choice(ODD)
    return infer(json.dumps(content).encode(), None)


def request_json(rng: random.Random) -> Any:
    return {
        "id": "1",
        "parameters": {"binary_data_output": True},
        "inputs": [
            {
                "name": "images",
                "datatype": "UINT8",
                "shape": list(IMAGES.shape),
                "data": IMAGES.tolist() if rng.random() < 0.5 else IMAGES.reshape(-1).tolist(),
            }
        ],
        "outputs": [{"name": "features", "parameters": {"binary_data": True}}],
    }


def walk(content: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of values, few of each list."""
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))[:2]
    for key in keys:
        yield content, key
        if isinstance(content[key], (dict, list)):
            yield from walk(content[key])


def odd_tensor(rng: random.Random) -> bytes:
    """Sound messages that no image model can take."""
    shape = tuple(rng.randrange(5) for _ in range(rng.randrange(1, 6)))
    dtype = rng.choice([np.uint8, np.int8, np.float16, np.float32])
    values: dict[str, Any] = {rng.choice(["images", "files", "x"]): np.zeros(shape, dtype)}
    if rng.random() < 0.3:
        values = {"files": [rng.randbytes(rng.randrange(99)) for _ in range(rng.randrange(7))]}
    return infer(*build({}, "inputs", values, []))


def odd_lengths(rng: random.Random) -> bytes:
    """A sound body under lengths that are not its own."""
    body, length = build({}, "inputs", {"images": IMAGES}, [])
    assert length is not None
    odd = [0, 1, -1, length - 1, length + 1, len(body) + 1, 1 << 40, 1 << 70, "x", "", "1e3"]
    claimed = rng.choice([len(body), len(body), len(body) - 1, len(body) + 9, 1 << 45, "x"])
    return http({"Content-Length": str(claimed), JSON_LENGTH: str(rng.choice(odd))}, body)


def noise(rng: random.Random) -> bytes:
    """A sound request with some of its bytes altered, or cut off."""
    data = bytearray(well_formed())
    for _ in range(rng.randrange(1, 20)):
        data[rng.randrange(len(data) - IMAGES.nbytes)] = rng.randrange(256)
    return bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])


def odd_http(rng: random.Random) -> bytes:
    """What is hardly HTTP."""
    return rng.choice(
        [
            rng.randbytes(rng.randrange(1, 2000)),
            b"GET / HTTP/9.9\r\n\r\n",
            b"\r\n" * 50,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
            http({"X" * 90_000: "1"}, b""),
            http({f"X-{n}": "1" for n in range(3000)}, b""),
            http({"Transfer-Encoding": "chunked"}, b"ffffffffffffffff\r\n" + b"x" * 99),
            http({"Transfer-Encoding": "chunked", "Content-Length": "4"}, b"0\r\n\r\n"),
            http({"Transfer-Encoding": "gzip"}, b"abc"),
            http({"Expect": "100-continue", "Content-Length": "3"}, b"{}}"),
            http({}, b"", "/" + "a" * 5000, "GET"),
            http({}, b"", "/v2/models/%ff%fe/ready", "GET"),
            http({}, b"", "/v2/models/tiny/infer", rng.choice(["PUT", "TRACE", "BREW", "HEAD"])),
            http({"Range": "bytes=9-1,x"}, b"", "/backbone/manifest.json", "GET"),
            http({"Authorization": "\xff" * 50}, b"", "/v2", "GET") + b"rest",
        ]
    )


def heavy(rng: random.Random) -> bytes:
    """Bodies that would take much memory or time."""
    body = rng.choice(
        [
            b"[" * MAX_BODY,
            b'{"inputs":[' + b"[]," * (MAX_BODY // 4) + b"[]]}",
            b"x" * (MAX_BODY + 1),
            b'{"id":"' + b"a" * 999_999 + b'"}',
            b'{"inputs":[{"name":"images","datatype":"UINT8","shape":[1,8,8,3],"data":["'
            + b"a" * 900_000
            + b'"'
            + b",1" * 191
            + b"]}]}",
        ]
    )
    if rng.random() < 0.8:  # most of them small: they are slow to send
        body = body[: rng.randrange(5000)]
    return infer(body, None)
