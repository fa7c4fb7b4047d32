"""What a client makes of servers that are not ours, or not well."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edge_runtime.cli.common import connect
from edge_runtime.codecs import CODECS
from edge_runtime.errors import DataError, MismatchError, ServerError
from edge_runtime.http_link import Link
from edge_runtime.open_inference import JSON_LENGTH, build
from edge_runtime.remote_backbone import RemoteBackbone
from edge_runtime.served_model import metadata
from tests.edge_runtime.test_http_link import scripted
from tests.edge_runtime.tiny_backbone import EMBED_DIM, SIZE, TOKENS, manifest

IMAGES = np.zeros((2, SIZE, SIZE, 3), np.uint8)
FEATURES = np.ones((2, TOKENS, EMBED_DIM), np.float32)
MANIFEST = manifest(b"graph")


def answer(body: bytes, status: int = 200, **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
    return head.encode() + body


def said(content: Any, status: int = 200) -> bytes:
    return answer(json.dumps(content).encode(), status)


HELLO = said({"name": "s", "extensions": ["binary_tensor_data"]})
INDEX = said([{"name": "tiny"}])
MODEL = said(metadata("tiny", MANIFEST, {"onnxruntime": "1"}, 4, merges=True))


def features(**changes: Any) -> bytes:
    """The answer to an inference request, or one that differs from it."""
    values = {"features": changes.pop("value", FEATURES)}
    parameters = {"identity": changes.pop("identity", MANIFEST["identity"])}
    body, length = build({"parameters": parameters}, "outputs", values, [])
    return answer(body + changes.pop("more", b""), **{JSON_LENGTH.replace("-", "_"): str(length)})


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([answer(b"hello")], "does not speak the Open Inference Protocol"),
        ([said([])], "does not speak the Open Inference Protocol"),
        ([said({}, 404)], "answers with status 404: no reason given"),
        ([said({"error": "a\x1b[31m\nb"}, 500)], r"answers with status 500: a \[31m b"),
        ([said({}, 401)], "asks for a token"),
        ([HELLO, said([])], "not one model but these: none"),
        ([HELLO, said([{"name": "a"}, {"name": "b"}])], "not one model but these: a, b; name one"),
        ([HELLO, INDEX, said({"name": "tiny"})], "is not an edgetune backbone"),
        ([HELLO, INDEX, said({"parameters": {"manifest": {}}})], "is not an edgetune backbone"),
        ([HELLO, INDEX, MODEL.replace(b'"k": 1', b'"k": 2')], "do not give its identity"),
    ],
)
def test_servers_that_publish_no_backbone(answers: list[bytes], message: str) -> None:
    with scripted(*answers, end="keep") as server, pytest.raises(ServerError, match=message):
        RemoteBackbone.connect(Link(server.url))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (features(value=FEATURES[:1]), ServerError, r"lacks 'features', float32 \[2, 12, 16\]"),
        (features(value=FEATURES.astype(np.float16)), ServerError, "lacks 'features'"),
        (features(value=FEATURES * np.nan), ServerError, "holds NaN or infinite entries"),
        (features(more=b"x"), ServerError, "its answer is damaged: 1 bytes are left"),
        (features(identity="other"), MismatchError, "now has another backbone"),
        (said({"outputs": []}), MismatchError, "now has another backbone"),
        (said({"error": "no"}, 400), ServerError, "answers with status 400: no"),
        (said({"error": "image 1: bad"}, 422), DataError, "^two: bad$"),
        (said({"error": "image 9: bad"}, 422), DataError, "^image 9: bad$"),
        (answer(b"x" * 200_000), ServerError, "more than the"),
    ],
)
def test_answers_that_cannot_be_used(given: bytes, error: Any, message: str) -> None:
    with scripted(HELLO, INDEX, MODEL, given, end="keep") as server:
        backbone = RemoteBackbone.connect(Link(server.url))
        with pytest.raises(error, match=message):
            backbone.encoded(IMAGES, CODECS["float32"], ["one", "two"])


def test_a_sound_answer_can_be_used_and_a_model_be_named() -> None:
    with scripted(HELLO, MODEL, features(), end="keep") as server:
        backbone = connect(f"{server.url}/v2/models/some%20model", None, None, 5.0)
        stored, scale = backbone.encoded(IMAGES, CODECS["float32"])
        assert np.array_equal(stored, FEATURES) and scale is None
        assert server.requests[1].startswith(b"GET /v2/models/some%20model HTTP/1.1")
