"""A server under clients that come, go and break off: does memory grow, does a worker get stuck?

    python -m benchmarks.server_soak --minutes 10
    python -m benchmarks.server_soak backbone --minutes 60

Without BACKBONE the graph computes nothing (197 tokens x 768), so that as many requests as can be
pass through the server. Each client does one thing after the other, drawn at random: asks and reads
the answer, leaves before the answer or within it, breaks off within its request (politely or with a
reset), dribbles, connects and says nothing, or sends what is malformed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.serving import pixels, write_null_backbone
from edge_runtime.backbone import Backbone
from edge_runtime.open_inference import JSON_LENGTH, build
from tests.export.serve.test_malformed import malformed, resident
from tests.serving import Running, in_process, wait_until

SETTLED = 0.5  # of the run: from then on memory must not grow
MOST_GROWTH = 1 << 20  # bytes
PATIENCE = 30.0  # seconds that a client waits for an answer
FEW_SECONDS = 0.2
NAME = "tiny"

Act = Callable[[socket.socket, bytes, random.Random], str]


@dataclass(frozen=True)
class Sample:
    """The server's process at one moment."""

    rss: int
    files: int
    threads: int

    @classmethod
    def of(cls, process: int) -> Sample:
        folder = Path(f"/proc/{process}")
        files, threads = (len(os.listdir(folder / name)) for name in ("fd", "task"))
        return cls(resident(process), files, threads)


def ask(connection: socket.socket, request: bytes, rng: random.Random) -> str:
    """Reads the whole answer; its status."""
    connection.sendall(request)
    return read_answer(connection)


def read_answer(connection: socket.socket) -> str:
    """The status of an answer that is read to its last byte."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += received(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    left = length - len(body)
    while left:
        left -= len(received(connection))
    return head[9:12].decode()


def received(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise ConnectionError("the server closed the connection within an answer")
    return data


def leave_before_the_answer(connection: socket.socket, request: bytes, rng: random.Random) -> str:
    connection.sendall(request)
    return "left"


def leave_within_the_answer(connection: socket.socket, request: bytes, rng: random.Random) -> str:
    connection.sendall(request)
    connection.recv(rng.randrange(1, 1000))
    return "left"


def break_off(connection: socket.socket, request: bytes, rng: random.Random) -> str:
    connection.sendall(request[: rng.randrange(len(request))])
    return "left"


def reset(connection: socket.socket, request: bytes, rng: random.Random) -> str:
    """Without a goodbye: the server meets an error where it reads or writes."""
    connection.sendall(request[: rng.randrange(len(request) + 1)])
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return "left"


def dribble(connection: socket.socket, request: bytes, rng: random.Random) -> str:
    """The request in pieces, with pauses."""
    step = len(request) // 5 + 1
    for start in range(0, len(request), step):
        connection.sendall(request[start : start + step])
        time.sleep(rng.random() * FEW_SECONDS)
    return read_answer(connection)


def say_nothing(connection: socket.socket, request: bytes, rng: random.Random) -> str:
    time.sleep(rng.random() * FEW_SECONDS)
    return "left"


def send_malformed(connection: socket.socket, request: bytes, rng: random.Random) -> str:
    connection.settimeout(FEW_SECONDS)
    connection.sendall(malformed(rng))
    status = connection.recv(64)[9:12].decode("latin-1")
    return f"malformed: {status}" if status.isdigit() else "left"


ACTS: list[Act] = [
    *[ask] * 3,
    leave_before_the_answer,
    leave_within_the_answer,
    break_off,
    reset,
    dribble,
    say_nothing,
    send_malformed,
]


def client(server: Running, request: bytes, seed: int, end: float) -> Counter[str]:
    """One thing after the other until it is time; how often each came out how."""
    rng, seen = random.Random(seed), Counter[str]()
    while time.monotonic() < end:
        act = rng.choice(ACTS)
        outcome = "closed by the server"
        with contextlib.suppress(OSError), connected(server) as connection:
            outcome = act(connection, request, rng)
        seen[f"{act.__name__}: {outcome}"] += 1
    return seen


def connected(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def inference(backbone: Path) -> bytes:
    """A request for one image's features, whole."""
    images = pixels(1, Backbone.open(backbone).preprocessing.size)
    body, length = build({}, "inputs", {"images": images}, [])
    lines = [
        f"POST /v2/models/{NAME}/infer HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body)}",
        f"{JSON_LENGTH}: {length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


@click.command()
@click.argument("backbone", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(0.1))
@click.option("--clients", default=8, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True)
def main(backbone: Path | None, minutes: float, clients: int, as_json: bool) -> None:
    """Prints what it saw; exits with 1 where the server was not steady."""
    with tempfile.TemporaryDirectory() as folder:
        served = backbone or write_null_backbone(Path(folder) / "null")
        content = soak(served, Path(folder) / "log", minutes * 60, clients)
    if as_json:
        click.echo(json.dumps(content))
    else:
        for name, value in content.items():
            click.echo(f"{name:40}{value:.4g}" if isinstance(value, float) else f"{name:40}{value}")
    if not content["steady"]:
        raise SystemExit(1)


def soak(backbone: Path, log: Path, seconds: float, clients: int) -> dict[str, Any]:
    """One long run, and what came of it."""
    request = inference(backbone)
    with in_process(log, backbone, "--name", NAME) as (server, process):
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(lambda _: server.json("/v2"), range(clients)))  # threads have started
            before, samples = Sample.of(process.pid), []
            end = time.monotonic() + seconds
            running = [pool.submit(client, server, request, n, end) for n in range(clients)]
            while time.monotonic() < end:
                time.sleep(min(1.0, seconds / 100))
                samples.append(Sample.of(process.pid))
            seen = sum((one.result() for one in running), Counter[str]())
            wait_until(lambda: Sample.of(process.pid).files <= before.files, PATIENCE)
            statuses = Counter(pool.map(lambda _: once(server, request), range(4 * clients)))
        after = Sample.of(process.pid)
        queued = [line for line in metrics(server) if line.startswith("edgetune_queue_images ")]
    errors = {what: n for what, n in seen.items() if what.endswith((": 500", ": 502"))}
    errors["tracebacks"] = log.read_text().count("Traceback")
    return figures(samples, before, after) | {
        **dict(sorted(seen.items())),
        "queue at the end": queued[0].split()[1],
        "asked together at the end": dict(statuses),
        "errors": errors,
        "steady": growth(samples) <= MOST_GROWTH
        and not any(errors.values())
        and statuses == {"200": 4 * clients}
        and float(queued[0].split()[1]) == 0
        and after.files <= before.files
        and after.threads <= max(sample.threads for sample in samples),
    }


def once(server: Running, request: bytes) -> str:
    with connected(server) as connection:
        return ask(connection, request, random.Random())


def metrics(server: Running) -> list[str]:
    return server.request("GET", "/metrics")[2].decode().splitlines()


def growth(samples: list[Sample]) -> int:
    """Median RSS of the last tenth less that of the first tenth after it has settled, bytes."""
    settled = [sample.rss for sample in samples[int(len(samples) * SETTLED) :]]
    tenth = max(1, len(samples) // 10)
    return int(np.median(settled[-tenth:]) - np.median(settled[:tenth]))


def figures(samples: list[Sample], before: Sample, after: Sample) -> dict[str, Any]:
    """Memory, open files and threads, before, while and after."""
    return {
        "RSS before, MiB": before.rss / 2**20,
        "RSS half way, MiB": samples[len(samples) // 2].rss / 2**20,
        "RSS at the end, MiB": samples[-1].rss / 2**20,
        "RSS growth in the second half, KiB": growth(samples) / 1024,
        "open files before, most, after": (
            f"{before.files}, {max(sample.files for sample in samples)}, {after.files}"
        ),
        "threads before, most, after": (
            f"{before.threads}, {max(sample.threads for sample in samples)}, {after.threads}"
        ),
    }


if __name__ == "__main__":
    main()
