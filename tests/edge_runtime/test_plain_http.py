"""http:// without OpenSSL, in processes that have loaded nothing yet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.edge_runtime.test_http_link import OK, scripted

ROOT = Path(__file__).parents[2]
OPENSSL = {"ssl", "_ssl", "_hashlib"}

PLAIN = """
import json, sys
from edge_runtime.http_link import Link
link = Link(sys.argv[1], patience=5)
bodies = [link.request("GET", "/", most=9).body.decode() for _ in range(2)]
loaded = sorted(sys.modules)
import http.client, ssl
whole = issubclass(http.client.HTTPSConnection, http.client.HTTPConnection)
print(json.dumps([bodies, loaded, whole, Link("https://h")._http is http.client]))
"""


def run(code: str, *arguments: str) -> Any:
    """What Python code printed, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_http_loads_no_openssl_and_leaves_the_standard_librarys_client_whole() -> None:
    before = run("import json, sys, edge_runtime.errors; print(json.dumps(sorted(sys.modules)))")
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"
    with scripted(OK, b"nonsense\r\n\r\n", b"", cut, OK) as server:  # the copy's own errors
        bodies, loaded, whole, secure = run(PLAIN, server.url)
        assert len(server.requests) == 5
    assert bodies == ["ok", "ok"]
    assert not (set(loaded) - set(before)) & (OPENSSL | {"http.client"})
    assert whole and secure


def test_a_client_that_is_loaded_already_is_used() -> None:
    code = """
import http.client, json
from edge_runtime.plain_http import http_client
print(json.dumps([http_client(False) is http.client, http_client(True) is http.client]))
"""
    assert run(code) == [True, True]
