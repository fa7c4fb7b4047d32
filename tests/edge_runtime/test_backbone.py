"""Backbone folders: what is accepted, what the features are, and how damage is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import formats
from edge_runtime.backbone import Backbone
from edge_runtime.errors import DataError, FormatError
from tests.edge_runtime.tiny_backbone import (
    EMBED_DIM,
    PREPROCESSING,
    SIZE,
    TOKENS,
    expected_features,
    manifest,
    write_backbone,
)

Array = np.ndarray[Any, Any]
GRAPH = b"not a graph, but of the size that its manifest says"


@pytest.fixture
def runnable() -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")


def some_images(count: int) -> Array:
    return np.random.default_rng(3).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def folder_with(folder: Path, change: Callable[[formats.Json], object]) -> Path:
    """A folder whose graph is no graph, and whose manifest was changed."""
    content = manifest(GRAPH)
    change(content)
    (folder / "backbone.onnx").write_bytes(GRAPH)
    formats.write_json(folder / formats.MANIFEST, content)
    return folder


def test_open_reads_the_manifest_alone(tmp_path: Path) -> None:
    backbone = Backbone.open(folder_with(tmp_path, lambda content: None))
    assert (backbone.tokens, backbone.prefix_tokens, backbone.embed_dim) == (TOKENS, 1, EMBED_DIM)
    assert (backbone.norm_eps, backbone.dtype, backbone.scale) == (1e-6, "float32", 1.0)
    assert backbone.preprocessing.size == SIZE
    assert backbone.reference == {
        "identity": manifest(GRAPH)["identity"],
        "model": "tiny",
        "weights_sha256": "ab" * 32,
        "k": 1,
        "preprocessing": PREPROCESSING,
        "graph_version": 1,
        "onnx_sha256": manifest(GRAPH)["onnx"]["sha256"],
    }
    backbone.verify()
    (tmp_path / "backbone.onnx").write_bytes(GRAPH.upper())
    with pytest.raises(FormatError, match=r"sha256 is not that of manifest.json"):
        backbone.verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="edgetune.features"), "expected format 'edgetune.backbone'"),
        (lambda m: m.update(version=2), "version 2 of edgetune.backbone is not known"),
        (lambda m: m.update(graph_version=2), "graph version 2 is not known here"),
        (lambda m: m.update(k=2), "its entries do not give its identity; it was altered"),
        (lambda m: m.pop("weights"), "'weights' is missing"),
        (lambda m: m.pop("tokens"), "'tokens' is missing"),
        (lambda m: m.update(tokens=0), "'tokens' must be at least 1, found 0"),
        (lambda m: m.update(prefix_tokens=13), "13 prefix tokens, but 12 tokens in all"),
        (lambda m: m.update(norm_eps=0), "'norm_eps' must be above 0"),
        (lambda m: m["output"].update(dtype="int8"), "must be float16 or float32"),
        (lambda m: m["output"].update(scale=3.0), "a power of two as scale, found float32 x 3"),
        (lambda m: m["onnx"].update(bytes=7), "says 7 bytes, the file has 51; it is truncated"),
        (lambda m: m["onnx"].update(file="../x"), "plain file name, found '../x'"),
        (lambda m: m["onnx"].update(file="other.onnx"), "other.onnx is missing; copy the whole"),
    ],
)
def test_bad_manifests_are_format_errors(
    change: Callable[[formats.Json], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        Backbone.open(folder_with(tmp_path, change))
    assert "\n" not in str(caught.value)


def test_folders_without_a_sound_manifest_are_format_errors(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is not a backbone folder"):
        Backbone.open(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(FormatError, match="is damaged"):
        Backbone.open(tmp_path)


@pytest.mark.usefixtures("runnable")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_features_are_float32(count: int, tmp_path: Path) -> None:
    backbone = Backbone.open(write_backbone(tmp_path), threads=1)
    images = some_images(count)
    features = backbone.run(images)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, expected_features(images))


@pytest.mark.usefixtures("runnable")
def test_the_output_scale_is_undone(tmp_path: Path) -> None:
    backbone = Backbone.open(write_backbone(tmp_path, "float16", scale=8.0, gain=1000), threads=1)
    images = some_images(2)
    expected = expected_features(images, gain=1000).astype(np.float16).astype(np.float32) * 8
    np.testing.assert_array_equal(backbone.run(images), expected)


@pytest.mark.usefixtures("runnable")
def test_saturated_float16_names_the_image_and_the_cure(tmp_path: Path) -> None:
    backbone = Backbone.open(write_backbone(tmp_path, "float16", gain=1e6), threads=1)
    images = some_images(2)
    images[0] = 0
    with pytest.raises(DataError, match=r"b.png: .* export .* `--dtype float32`"):
        backbone.run(images, ["a.png", "b.png"])


@pytest.mark.usefixtures("runnable")
def test_nan_and_infinity_name_the_image(tmp_path: Path) -> None:
    backbone = Backbone.open(write_backbone(tmp_path / "nan", divide=True), threads=1)
    images = some_images(3)
    images[1] = 0
    with pytest.raises(DataError, match=r"b\.png: the backbone gives NaN"):
        backbone.run(images, ["a.png", "b.png", "c.png"])
    with pytest.raises(DataError, match="image 1: the backbone gives NaN"):
        backbone.run(images)
    backbone = Backbone.open(write_backbone(tmp_path / "inf", gain=float("inf")), threads=1)
    with pytest.raises(DataError, match=r"image 0: the backbone gives (infinite|NaN)"):
        backbone.run(some_images(1))


@pytest.mark.usefixtures("runnable")
def test_images_of_another_form_are_refused(tmp_path: Path) -> None:
    backbone = Backbone.open(write_backbone(tmp_path), threads=1)
    for images in (some_images(2).astype(np.float32), some_images(2)[:, :-1]):
        with pytest.raises(DataError, match=r"takes uint8 images \[n, 8, 8, 3\], got"):
            backbone.run(images)


@pytest.mark.usefixtures("runnable")
def test_a_graph_that_is_not_the_manifests_is_a_format_error(tmp_path: Path) -> None:
    damaged = Backbone.open(folder_with(tmp_path, lambda content: None))
    with pytest.raises(FormatError, match="onnxruntime cannot load it") as caught:
        damaged.run(some_images(1))
    assert "\n" not in str(caught.value)

    folder = write_backbone(tmp_path / "dtype")
    content = formats.read_manifest(folder, formats.BACKBONE)
    content["output"]["dtype"] = "float16"
    formats.write_json(folder / formats.MANIFEST, content)
    with pytest.raises(FormatError, match=r"expected inputs and outputs .*float16"):
        Backbone.open(folder).run(some_images(1))

    folder = write_backbone(tmp_path / "shape", dim=1)
    with pytest.raises(FormatError, match=r"features are \[1, 6, 32\], .* says \[1, 12, 16\]"):
        Backbone.open(folder, threads=1).run(some_images(1))
