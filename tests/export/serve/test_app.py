"""The server as clients see it: every route, every form of a request, and refusals."""

from __future__ import annotations

import http.client
import io
import json
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import codecs, formats
from edge_runtime.codecs import CODECS, PLAIN
from edge_runtime.open_inference import JSON_LENGTH, Message, Value, build, parse
from edge_runtime.served_model import Form
from tests.edge_runtime.tiny_backbone import SIZE, TOKENS, preprocessing
from tests.serving import Running

Array = np.ndarray[Any, Any]
INFER = "/v2/models/tiny/infer"


def pixels(count: int = 2, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(1, 256, (count, SIZE, SIZE, 3), np.uint8)


def truth(folder: Path, images: Array) -> Array:
    from edge_runtime.backbone import Backbone

    return Backbone.open(folder, 1).run(images)


def outputs(*names: str, binary: bool = True) -> dict[str, Any]:
    return {"outputs": [{"name": name, "parameters": {"binary_data": binary}} for name in names]}


def ask(
    server: Running, content: dict[str, Any], values: dict[str, Value], *, in_json: bool = False
) -> tuple[int, Any]:
    """(status, answer: a Message, or the JSON of an error)."""
    body, length = build(content, "inputs", values, list(values) if in_json else [])
    headers = {} if length is None else {JSON_LENGTH: str(length)}
    status, found, answer = server.request("POST", INFER, body, headers)
    if status != 200:
        return status, json.loads(answer)
    return status, parse(answer, found.get(JSON_LENGTH.lower()), "outputs")


def encoded(image: Array, kind: str) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(image).save(data, kind)
    return data.getvalue()


def test_what_the_server_says_of_itself(server: Running, backbone_folder: Path) -> None:
    assert "binary_tensor_data" in server.json("/v2")["extensions"]
    assert server.request("GET", "/v2/health/live")[0] == 200
    assert server.request("GET", "/v2/health/ready")[0] == 200
    for method in ("GET", "POST"):
        status, _, body = server.request(method, "/v2/repository/index")
        assert (status, json.loads(body)[0]["name"]) == (200, "tiny")
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
        assert server.request("GET", path + "/ready")[0] == 200
        content = server.json(path)
        assert content["inputs"][0] == {
            "name": "images",
            "datatype": "UINT8",
            "shape": [-1, SIZE, SIZE, 3],
        }
        manifest = content["parameters"]["manifest"]
        assert manifest == formats.read_manifest(backbone_folder, formats.BACKBONE)


@pytest.mark.parametrize("codec", sorted(PLAIN))
def test_pixels_give_what_a_local_extract_stores(
    codec: str, server: Running, backbone_folder: Path
) -> None:
    names = Form(CODECS[codec]).output_names
    status, answer = ask(server, {**outputs(*names), "id": "a"}, {"images": pixels(3)})
    assert status == 200
    expected = codecs.encode(CODECS[codec], truth(backbone_folder, pixels(3)))
    assert list(answer.tensors) == names
    for found, value in zip(answer.tensors.values(), expected):
        assert value is not None and found.dtype == value.dtype and np.array_equal(found, value)
    assert (answer.content["id"], answer.content["model_name"]) == ("a", "tiny")


@pytest.mark.parametrize("send_json", [True, False])
@pytest.mark.parametrize("asked", [{}, outputs("features", binary=False)])
def test_json_answers_are_exact(
    send_json: bool, asked: dict[str, Any], server: Running, backbone_folder: Path
) -> None:
    status, answer = ask(server, asked, {"images": pixels()}, in_json=send_json)
    assert status == 200
    assert np.array_equal(answer.tensors["features"], truth(backbone_folder, pixels()))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_files_are_read_as_extract_reads_them(
    kind: str, server: Running, backbone_folder: Path, tmp_path: Path
) -> None:
    from edge_runtime.preprocess import load_image

    data = encoded(np.random.default_rng(1).integers(0, 256, (30, 20, 3), np.uint8), kind)
    (tmp_path / "image").write_bytes(data)
    status, answer = ask(server, outputs("features"), {"files": [data, data]})
    assert status == 200
    expected = truth(backbone_folder, load_image(tmp_path / "image", preprocessing())[None])
    assert np.array_equal(answer.tensors["features"], np.concatenate([expected] * 2))


def test_images_that_cannot_be_used_are_named(server: Running) -> None:
    good = encoded(pixels(1)[0], "PNG")
    for bad in (b"", b"text", good[:40], encoded(pixels(1)[0], "BMP")):
        status, answer = ask(server, {}, {"files": [good, bad]})
        assert status == 422 and answer["error"].startswith("image 1: ")
    black = pixels(2)
    black[1] = 0  # this backbone divides by the largest value
    status, answer = ask(server, {}, {"images": black})
    assert status == 422 and answer["error"].startswith("image 1: the backbone gives NaN")


def test_an_image_of_too_many_pixels_is_not_decoded(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.serve import model

    monkeypatch.setattr(model, "MAX_PIXELS", 63)
    status, answer = ask(server, {}, {"files": [encoded(pixels(1)[0], "PNG")]})
    assert (status, answer["error"]) == (422, "image 0: more than 63 pixels")


@pytest.mark.parametrize(
    ("content", "values", "named"),
    [
        ({}, {}, "expected one input"),
        ({}, {"x": pixels()}, "expected one input"),
        ({}, {"images": pixels(), "files": [b""]}, "expected one input"),
        ({}, {"images": pixels(5)}, "1 to 4 images"),
        ({}, {"images": pixels(0)}, "1 to 4 images"),
        ({}, {"images": pixels()[:, :7]}, "UINT8 [n, 8, 8, 3]"),
        ({}, {"images": pixels()[0][:2]}, "UINT8 [n, 8, 8, 3]"),
        ({}, {"images": pixels().view(np.int8)}, "UINT8 [n, 8, 8, 3]"),
        ({}, {"images": [b""]}, "UINT8 [n, 8, 8, 3]"),
        ({}, {"files": pixels()}, "UINT8 [n, 8, 8, 3]"),
        ({"outputs": []}, {"images": pixels()}, "must list"),
        ({"outputs": 3}, {"images": pixels()}, "must list"),
        ({"outputs": [3]}, {"images": pixels()}, "an output must be"),
        (outputs("pixels"), {"images": pixels()}, "an output must be"),
        (outputs("features", "features"), {"images": pixels()}, "once"),
        (outputs("features_int8", binary=False), {"images": pixels()}, "as binary only"),
        ({"outputs": [{"name": "features", "parameters": 1}]}, {"images": pixels()}, "parameters"),
        ({"parameters": {"binary_data_output": 1}}, {"images": pixels()}, "true or false"),
        ({"id": 3}, {"images": pixels()}, "'id'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_requests_that_make_no_sense_are_refused(
    content: dict[str, Any], values: dict[str, Value], named: str, server: Running
) -> None:
    status, answer = ask(server, content, values)
    assert status == 400 and named in answer["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/v2/models/tiny/versions/2", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("GET", "/features/manifest.json", 404),
        ("GET", "/backbone/backbone.onnx", 404),
        ("GET", "/backbone/..%2f..%2fetc%2fpasswd", 404),
    ],
)
def test_what_is_not_there(method: str, path: str, status: int, server: Running) -> None:
    found, _, body = server.request(method, path)
    assert found == status and json.loads(body)["error"]


def test_bodies_are_bounded_in_size_and_time(server: Running) -> None:
    assert server.request("POST", INFER, b"x" * 65537)[0] == 413
    assert server.request("POST", INFER, b"{}", {"Content-Encoding": "gzip"})[0] == 415
    chunked = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % INFER.encode()
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    assert raw(server, chunked + chunk * 3).startswith(b"HTTP/1.1 413")
    begin = time.monotonic()
    slow = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12" % INFER.encode()
    assert raw(server, slow).startswith(b"HTTP/1.1 408")
    assert 0.9 < time.monotonic() - begin < 5


def raw(server: Running, data: bytes) -> bytes:
    """What the server answers to these bytes, until it closes the connection or falls silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(data)
        return connection.recv(1 << 16)


def test_a_header_that_never_ends_is_cut_off(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.serve import http_server

    monkeypatch.setattr(http_server, "HEADER_SECONDS", 0.3)
    assert raw(server, b"") == b""
    assert raw(server, b"GET /v2 HTTP/1.1\r\nHost:") == b""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    for _ in range(2):
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().read()
        time.sleep(0.6)  # between requests there is no hurry
    connection.sock.sendall(b"GET /v2")
    assert connection.sock.recv(1) == b""
    connection.close()


def test_metrics_count_requests_bytes_and_batches(server: Running) -> None:
    def value(text: str, line: str) -> float:
        found = [row for row in text.splitlines() if row.startswith(line + " ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    before = server.request("GET", "/metrics")[2].decode()
    ask(server, {}, {"images": pixels(3)})
    ask(server, {}, {"images": pixels(5)})
    after = server.request("GET", "/metrics")[2].decode()
    for line, more in (
        ('edgetune_requests_total{endpoint="infer",status="200"}', 1),
        ('edgetune_requests_total{endpoint="infer",status="400"}', 1),
        ('edgetune_request_seconds_count{endpoint="infer"}', 2),
        ("edgetune_batch_images_sum", 3),
    ):
        assert value(after, line) - value(before, line) == more, line
    assert value(after, "edgetune_received_bytes_total") > 8 * SIZE * SIZE * 3
    assert value(after, "edgetune_sent_bytes_total") > 3 * TOKENS * 16 * 4


def test_answers_are_messages(server: Running) -> None:
    """The helper above returns what it says; else the tests of refusals could pass for nothing."""
    assert isinstance(ask(server, {}, {"images": pixels()})[1], Message)


def test_a_codec_that_does_not_fit_the_backbone_is_not_offered(server: Running) -> None:
    """The tiny backbone has 11 patch tokens: no grid to pool."""
    status, answer = ask(server, outputs("features_int8-pool2"), {"images": pixels()})
    assert status == 400 and answer["error"].startswith("an output must be one of features, ")
    assert "pool" not in answer["error"]
