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
from edge_runtime.served_model import metadata, parameters
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
SAID = parameters(MANIFEST, {"onnxruntime": "1"}, 4, merges=True)
MODEL = said(metadata("tiny", MANIFEST, SAID))


TRITON = said(
    {
        "inputs": [{"name": "images"}],
        "outputs": [{"name": "features"}],
        "platform": "onnxruntime_onnx",
    }
)


def config(text: str) -> bytes:
    """Triton's answer about a model's configuration."""
    return said({"name": "tiny", "parameters": {"edgetune": {"string_value": text}}})


AS_COMPUTED = parameters(MANIFEST, {}, 4, merges=False, as_computed=True)
OTHER = {**AS_COMPUTED, "manifest": {**MANIFEST, "identity": "other"}}


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
        ([HELLO, INDEX, said({"name": "tiny"}), said({}, 404)], "is not an edgetune backbone"),
        ([HELLO, INDEX, said({"parameters": {"manifest": {}}})], "is not an edgetune backbone"),
        ([HELLO, INDEX, TRITON, said([])], "neither its metadata nor its configuration"),
        ([HELLO, INDEX, TRITON, config("{")], "its configuration: JSON is damaged"),
        ([HELLO, INDEX, TRITON, said({}, 401)], "asks for a token"),
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
        (said({"error": "no"}, 400), ServerError, "answers with status 400: no"),
        (said({"error": "image 1: bad"}, 422), DataError, "^two: bad$"),
        (said({"error": "image 9: bad"}, 422), DataError, "^image 9: bad$"),
        (said({"error": "image 1: bad"}, 400), DataError, "^two: bad$"),
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


def of_triton(**changes: Any) -> bytes:
    """An answer whose parameters name no backbone."""
    body, length = build({}, "outputs", {"features": changes.get("value", FEATURES)}, [])
    return answer(body, **{JSON_LENGTH.replace("-", "_"): str(length)})


def test_what_a_bare_graph_computes_is_encoded_here() -> None:
    stated = config(json.dumps(AS_COMPUTED))
    with scripted(HELLO, INDEX, TRITON, stated, of_triton(), stated, end="keep") as server:
        backbone = RemoteBackbone.connect(Link(server.url))
        assert not backbone.takes_files and not backbone.batch_invariant
        stored, scale = backbone.encoded(IMAGES, CODECS["int8"])
        assert scale is not None and stored.dtype == np.int8
        assert np.allclose(stored * scale[:, :, None], FEATURES, rtol=0.01)
        assert len(server.requests) == 6


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_half_precision_of_a_bare_graph_comes_in_true_units(scale: float) -> None:
    half = manifest(b"graph", "float16", scale)
    stated = config(json.dumps({**AS_COMPUTED, "manifest": half}))
    sent = FEATURES.astype(np.float16)
    with scripted(
        HELLO, INDEX, TRITON, stated, of_triton(value=sent), stated, end="keep"
    ) as server:
        stored, _ = RemoteBackbone.connect(Link(server.url)).encoded(IMAGES, CODECS["float32"])
        assert np.array_equal(stored, FEATURES * np.float32(scale))


@pytest.mark.parametrize(
    ("value", "after", "error", "message"),
    [
        (FEATURES, config(json.dumps(OTHER)), MismatchError, "another backbone.*other, before"),
        (FEATURES, said({}, 404), MismatchError, r"another backbone.*identity none"),
        (FEATURES * np.nan, config(json.dumps(AS_COMPUTED)), DataError, "^one: .* gives NaN"),
        (FEATURES.astype("<f2"), config(json.dumps(AS_COMPUTED)), ServerError, "lacks 'features'"),
    ],
)
def test_what_a_bare_graph_may_not_answer(
    value: Any, after: bytes, error: Any, message: str
) -> None:
    stated = config(json.dumps(AS_COMPUTED))
    answers = (HELLO, INDEX, TRITON, stated, of_triton(value=value), after)
    with scripted(*answers, end="keep") as server:
        backbone = RemoteBackbone.connect(Link(server.url))
        with pytest.raises(error, match=message):
            backbone.encoded(IMAGES, CODECS["float32"], ["one", "two"])
