"""A backbone folder and image folders small enough for tests: 8 x 8 pixels, 12 tokens of 16."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import formats
from edge_runtime.preprocess import Preprocessing

Array = np.ndarray[Any, Any]

SIZE, TOKENS, EMBED_DIM = 8, 12, 16
PREFIX = 1
PREPROCESSING = {
    "size": SIZE,
    "resize": 9,
    "crop_mode": "center",
    "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


def with_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has backbones made with 2 x 2 patch tokens of 48 and no prefix token: one square to pool."""
    here = sys.modules[__name__]
    for name, value in (("TOKENS", 4), ("EMBED_DIM", 48), ("PREFIX", 0)):
        monkeypatch.setattr(here, name, value)


def preprocessing() -> Preprocessing:
    return Preprocessing.from_json(PREPROCESSING, Path("manifest.json"))


def manifest(graph: bytes, dtype: str = "float32", scale: float = 1.0) -> formats.Json:
    """A valid manifest for a graph of these bytes."""
    parts = {
        "weights_sha256": "ab" * 32,
        "k": 1,
        "preprocessing": PREPROCESSING,
        "graph_version": 1,
    }
    return {
        "format": formats.BACKBONE,
        "version": formats.VERSION,
        "identity": formats.identity(parts),
        "model": "tiny",
        "weights": {"sha256": "ab" * 32, "source": "random"},
        "k": 1,
        "taps": ["blocks.0"],
        "hierarchical": False,
        "tokens": TOKENS,
        "prefix_tokens": PREFIX,
        "embed_dim": EMBED_DIM,
        "norm_eps": 1e-6,
        "preprocessing": PREPROCESSING,
        "graph_version": 1,
        "output": {"dtype": dtype, "scale": scale},
        "onnx": {
            "file": "backbone.onnx",
            "sha256": hashlib.sha256(graph).hexdigest(),
            "bytes": len(graph),
            "opset": 17,
        },
        "verified": {},
        "versions": {},
    }


def graph(
    dtype: str = "float32", gain: float = 1.0, *, divide: bool = False, dim: int = 0
) -> bytes:
    """features = weights * images / 255 * gain; with `divide`, NaN where an image is all black."""
    from onnx import TensorProto, checker, helper, numpy_helper

    weights = np.linspace(-1, 1, TOKENS * EMBED_DIM, dtype=np.float32) * gain / 255
    constants = {
        "weights": weights.reshape(TOKENS, EMBED_DIM),
        "shape": np.array([-1, TOKENS // 2, 2 * EMBED_DIM] if dim else [-1, TOKENS, EMBED_DIM]),
        "inner": np.array([-1, TOKENS, EMBED_DIM]),
        "axes": np.array([1, 2]),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "inner"], ["tokens"]),
        helper.make_node("Mul", ["tokens", "weights"], ["weighted"]),
        helper.make_node("ReduceMax", ["tokens"], ["largest"], axes=[1, 2]),
        helper.make_node("Div", ["weighted", "largest"], ["divided"]),
        helper.make_node("Reshape", ["divided" if divide else "weighted", "shape"], ["shaped"]),
        helper.make_node("Cast", ["shaped"], ["features"], to=_onnx_type(dtype)),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])],
            [helper.make_tensor_value_info("features", _onnx_type(dtype), ["batch", "t", "d"])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    checker.check_model(model)
    return bytes(model.SerializeToString())


def expected_features(images: Array, gain: float = 1.0) -> Array:
    """What the graph computes, in float32."""
    weights = np.linspace(-1, 1, TOKENS * EMBED_DIM, dtype=np.float32) * gain / 255
    flat = images.astype(np.float32).reshape(len(images), TOKENS, EMBED_DIM)
    features: Array = flat * weights.reshape(TOKENS, EMBED_DIM)
    return features


def write_backbone(
    folder: Path,
    dtype: str = "float32",
    scale: float = 1.0,
    gain: float = 1.0,
    *,
    divide: bool = False,
    dim: int = 0,
) -> Path:
    """A backbone folder that onnxruntime can run."""
    data = graph(dtype, gain, divide=divide, dim=dim)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "backbone.onnx").write_bytes(data)
    formats.write_json(folder / formats.MANIFEST, manifest(data, dtype, scale))
    return folder


def write_image(path: Path, seed: int, size: tuple[int, int] = (12, 10)) -> None:
    """A PNG of noise."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path)


def write_images(root: Path, names: Iterable[str]) -> Path:
    """An image folder with a different image under each name."""
    for seed, name in enumerate(names):
        write_image(root / name, seed)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _onnx_type(dtype: str) -> int:
    from onnx import TensorProto

    return int(TensorProto.FLOAT16 if dtype == "float16" else TensorProto.FLOAT)
