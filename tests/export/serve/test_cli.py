"""`edgetune serve` as it is typed: start, log, stop, and what it refuses."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.open_inference import JSON_LENGTH, build
from tests.command_line import edgetune
from tests.edge_runtime.tiny_backbone import SIZE
from tests.serving import in_process
from tests.test_imports import refusal

BODY, LENGTH = build({}, "inputs", {"images": np.ones((1, SIZE, SIZE, 3), np.uint8)}, [])


def test_it_serves_logs_and_stops(backbone_folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with in_process(log, backbone_folder, "--name", "mine") as (server, process):
        headers = {JSON_LENGTH: str(LENGTH)}
        status, _, body = server.request("POST", "/v2/models/mine/infer", BODY, headers)
        assert status == 200
        assert server.request("GET", "/nothing?secret=1")[0] == 404
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    first, *lines = log.read_text().splitlines()
    assert first == f"serving mine at {server.url}"
    records = [json.loads(line) for line in lines if "method" in line]
    expected = {
        "method": "POST",
        "path": "/v2/models/mine/infer",
        "status": 200,
        "bytes_in": len(BODY),
        "bytes_out": len(body),
        "images": 1,
        "outputs": ["features"],
    }
    assert {key: records[0][key] for key in expected} == expected
    assert records[1]["status"] == 404 and "secret" not in log.read_text()


def test_a_stop_lets_accepted_requests_be_answered(backbone_folder: Path, tmp_path: Path) -> None:
    with in_process(tmp_path / "log", backbone_folder) as (server, process):
        head = (
            f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\n{JSON_LENGTH}: {LENGTH}\r\n"
            f"Content-Length: {len(BODY)}\r\nConnection: close\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(head.encode() + BODY[:-1])
            threading.Timer(0.5, process.send_signal, [signal.SIGTERM]).start()
            threading.Timer(1.0, connection.sendall, [BODY[-1:]]).start()
            answer = b""
            while piece := connection.recv(1 << 16):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 200")
        process.wait(20)


def test_it_listens_at_loopback_unless_told(backbone_folder: Path, tmp_path: Path) -> None:
    with in_process(tmp_path / "log", backbone_folder) as (server, _):
        for address in ("127.0.0.2", own_address()):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address, server.port), timeout=5)


def own_address() -> str:
    """An address of this machine that is not loopback; where there is none, one that is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.3"
        return str(probe.getsockname()[0])


def test_tls(backbone_folder: Path, tmp_path: Path, certificate: Any) -> None:
    options = ("--tls-cert", certificate.file, "--tls-key", certificate.key)
    with in_process(tmp_path / "log", backbone_folder, *options) as (server, _):
        assert f"https://127.0.0.1:{server.port}" in (tmp_path / "log").read_text()
        context = ssl.create_default_context(cafile=str(certificate.file))
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context)
        connection.request("GET", "/v2")
        assert connection.getresponse().status == 200
        connection.close()


def test_what_is_refused(backbone_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    assert "is not a backbone folder" in edgetune("serve", tmp_path).error
    line = edgetune("serve", backbone_folder, "--token-file", tmp_path / "empty").error
    assert "expected a token a line" in line
    line = edgetune("serve", backbone_folder, "--features", tmp_path).error
    assert "is not a feature folder" in line
    empty = tmp_path / "empty"
    line = edgetune("serve", backbone_folder, "--tls-cert", empty, "--tls-key", empty).error
    assert "are no certificate with its key" in line
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = edgetune("serve", backbone_folder, "--port", port).error
    assert f"cannot listen at 127.0.0.1, port {port}" in line
    assert "cannot listen at" in edgetune("serve", backbone_folder, "--host", "no.such.host.").error
    assert edgetune("serve", backbone_folder, "--tls-cert", empty).exit_code == 2
    assert edgetune("serve", backbone_folder, "--port", 70000).exit_code == 2


def test_an_altered_graph_is_not_served(tmp_path: Path, backbone_folder: Path) -> None:
    from tests.edge_runtime.tiny_backbone import write_backbone

    folder = write_backbone(tmp_path / "altered")
    data = bytearray((folder / "backbone.onnx").read_bytes())
    data[-40] ^= 1
    (folder / "backbone.onnx").write_bytes(data)
    assert "sha256 is not that of" in edgetune("serve", folder, "--port", 0).error


@pytest.mark.parametrize(
    ("blocked", "extra"), [("uvicorn", "serve"), ("onnxruntime", "ort"), ("PIL", "vision")]
)
def test_without_its_extra_it_says_how_to_install_it(
    blocked: str, extra: str, backbone_folder: Path
) -> None:
    refusal(extra, blocked, "serve", backbone_folder)
