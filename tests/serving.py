"""A server for tests, in a thread of this process or in a process of its own, and raw requests."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@dataclass
class Running:
    """A server that answers at `url`."""

    port: int
    app: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] = {},
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers in lower case, body) of one request on its own connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        return json.loads(self.request("GET", path)[2])


@contextlib.contextmanager
def in_thread(app: Any) -> Iterator[Running]:
    """Serves an app on a free port until the block ends."""
    import uvicorn

    from export.serve import http_server

    bound = http_server.bind("127.0.0.1", 0)
    server = uvicorn.Server(http_server.configure(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Running(bound.getsockname()[1], app)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)


@contextlib.contextmanager
def in_process(
    log: Path,
    *arguments: object,
    port: int = 0,
    module: str = "edge_runtime.cli",
    folder: Path | None = None,
) -> Iterator[tuple[Running, Any]]:
    """Runs `edgetune serve` in a folder, its stderr into `log`; yields (server, process), kills it
    at last."""
    command = [sys.executable, "-m", module, "serve", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(log, "wb") as stderr:
        process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=folder, env=environment, stderr=stderr
        )
    try:
        wait_until(
            lambda: re.search(r"serving .*\n", log.read_text()) or process.poll() is not None
        )
        found = re.search(r"serving .* at https?://.*:(\d+)", log.read_text())
        assert found, log.read_text()
        running = Running(int(found[1]))
        wait_until(lambda: answers(running))
        yield running, process
    finally:
        process.kill()
        process.wait()


def answers(running: Running) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", running.port), timeout=5).close()
    except OSError:
        return False
    return True


def wait_until(true: Any, seconds: float = 20.0) -> None:
    """Waits for a condition, and fails where it does not come."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1 and its key, in files."""

    file: Path
    key: Path


def self_signed(folder: Path) -> Certificate:
    """Makes a certificate with the openssl command; skips the test where there is none."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext"
    subprocess.run(
        [*command.split(), "subjectAltName=IP:127.0.0.1", "-keyout", made.key, "-out", made.file],
        check=True,
        capture_output=True,
    )
    return made
