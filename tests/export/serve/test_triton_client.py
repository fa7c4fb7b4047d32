"""Triton's own client, unchanged, against our server."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from tests.edge_runtime.tiny_backbone import EMBED_DIM, SIZE, TOKENS
from tests.serving import Running

triton = pytest.importorskip("tritonclient.http")

IMAGES = np.random.default_rng(3).integers(1, 256, (2, SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def client(server: Running) -> Any:
    made = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    yield made
    made.close()


def images(binary: bool) -> Any:
    tensor = triton.InferInput("images", list(IMAGES.shape), "UINT8")
    tensor.set_data_from_numpy(IMAGES, binary_data=binary)
    return tensor


def test_it_finds_the_model(client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1") and not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "edgetune"
    assert client.get_model_metadata("tiny")["outputs"][0]["shape"] == [-1, TOKENS, EMBED_DIM]
    assert [one["name"] for one in client.get_model_repository_index()] == ["tiny"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_features_both_ways(client: Any, binary_in: bool, binary_out: bool) -> None:
    asked = triton.InferRequestedOutput("features", binary_data=binary_out)
    answer = client.infer("tiny", [images(binary_in)], outputs=[asked], request_id="9")
    first = client.infer("tiny", [images(True)])  # no outputs named: binary by default there
    assert answer.as_numpy("features").shape == (2, TOKENS, EMBED_DIM)
    assert np.array_equal(answer.as_numpy("features"), first.as_numpy("features"))
    assert answer.get_response()["id"] == "9"


def test_codecs_and_files(client: Any) -> None:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(IMAGES[0]).resize((9, 9)).save(data, "PNG")
    files = triton.InferInput("files", [1], "BYTES")
    files.set_data_from_numpy(np.array([data.getvalue()], dtype=object))
    names = ["features", "features_float16", "scale_float16", "features_int8", "scale_int8"]
    answer = client.infer("tiny", [files], outputs=[triton.InferRequestedOutput(n) for n in names])
    full, half, half_scale, small, scale = (answer.as_numpy(name) for name in names)
    assert (half.dtype, small.dtype) == (np.float16, np.int8)
    assert np.allclose(half * half_scale[:, None, None], full, rtol=1e-3)
    assert np.allclose(small * scale[:, :, None], full, atol=np.abs(full).max() / 100)


def test_errors_are_its_own_kind(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match="there is no model"):
        client.infer("other", [images(True)])
