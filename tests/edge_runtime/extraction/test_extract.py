"""Feature folders: what is in them, and which images and outputs are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import codecs, formats, tensorfile
from edge_runtime.backbone import Backbone
from edge_runtime.codecs import CODECS, PLAIN
from edge_runtime.errors import (
    ConfigError,
    DataError,
    FormatError,
    OutputExistsError,
)
from edge_runtime.features import FeatureFolder
from edge_runtime.preprocess import load_image
from tests.edge_runtime import tiny_backbone
from tests.edge_runtime.extraction.images import BAD, NAMES, run, spoil
from tests.edge_runtime.tiny_backbone import contents, write_backbone, write_images

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("PIL")


@pytest.mark.parametrize("codec", sorted(PLAIN))
def test_the_folder_is_what_the_formats_say(
    codec: str, images: Path, backbone: Backbone, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    result = run(images, backbone, out, codec)
    manifest = formats.read_manifest(out, formats.FEATURES)
    shards = {split: entry["shards"] for split, entry in manifest["splits"].items()}
    assert [shard["rows"] for shard in shards["train"]] == [5, 5, 2]
    assert [shard["rows"] for shard in shards["val"]] == [5, 1]
    files = sorted(shard["file"] for members in shards.values() for shard in members)
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", *files]
    assert not (tmp_path / "features.partial").exists()

    bare = {k: v for k, v in manifest.items() if k not in ("identity", "versions")}
    assert manifest["identity"] == formats.identity(bare) == result.identity
    assert manifest["backbone"] == backbone.reference
    assert (manifest["codec"], manifest["classes"]) == (codec, ["cat", "dog"])
    assert (manifest["tokens"], manifest["prefix_tokens"], manifest["embed_dim"]) == (12, 1, 16)
    assert set(manifest["versions"]) == {"edgetune", "numpy", "Pillow", "onnxruntime"}
    assert result.rows == {"train": 12, "val": 6, "test": 6}
    assert (result.images, result.computed, result.shards) == (24, 24, 7)
    assert result.bytes_per_image == CODECS[codec].bytes_per_image(12, 16)
    assert str(tmp_path) not in json.dumps(manifest)


@pytest.mark.parametrize("codec", sorted(PLAIN))
def test_features_labels_and_rms_are_right(
    codec: str, images: Path, backbone: Backbone, tmp_path: Path
) -> None:
    run(images, backbone, tmp_path / "features", codec)
    folder = FeatureFolder.open(tmp_path / "features")
    for name in folder.split_names:
        split = folder.split(name)
        expected_paths = sorted(path for path in NAMES if path.startswith(name))
        assert split.paths == expected_paths
        labels = [int("dog" in path) for path in expected_paths]
        np.testing.assert_array_equal(split.labels, labels)
        pixels = [load_image(images / path, backbone.preprocessing) for path in expected_paths]
        features = tiny_backbone.expected_features(np.stack(pixels))
        decoded = np.empty(features.shape, np.float32)
        codecs.decode(CODECS[codec], *codecs.encode(CODECS[codec], features), decoded)
        z, norms = np.empty(features.shape, np.float32), np.empty(features.shape[:2], np.float32)
        scratch = np.empty(split.scratch_bytes(len(features)), np.uint8)
        split.read(np.arange(len(features)), z, norms, scratch)
        np.testing.assert_array_equal(z, decoded)
        np.testing.assert_array_equal(norms, codecs.token_norms(decoded))
        assert split.rms == pytest.approx(
            np.sqrt(np.square(decoded, dtype=float).mean()), rel=1e-12
        )
    assert all(sound for _, sound in folder.verify())


def test_unreadable_images_are_named_and_recorded(
    images: Path, backbone: Backbone, tmp_path: Path
) -> None:
    spoil(images, BAD)
    said: list[str] = []
    result = run(images, backbone, tmp_path / "out", say=said.append)
    why = "not an image that Pillow can read"
    assert said == [f"skipped {name}: {why}" for name in BAD]
    manifest = formats.read_manifest(tmp_path / "out", formats.FEATURES)
    assert manifest["skipped"] == [
        {"split": name.split("/")[0], "path": name, "reason": why} for name in BAD
    ]
    assert list(result.skipped) == manifest["skipped"]
    assert result.rows == {"train": 8, "val": 5, "test": 4}
    _, first = tensorfile.read(tmp_path / "out" / "train-00000.safetensors")
    _, last = tensorfile.read(tmp_path / "out" / "train-00001.safetensors")
    assert json.loads(first["skipped"]) == [[BAD[0], why], [BAD[1], why]]
    assert json.loads(last["skipped"]) == [[BAD[2], why], [BAD[3], why]]


def test_unreadable_images_after_a_full_last_shard_belong_to_it(
    images: Path, backbone: Backbone, tmp_path: Path
) -> None:
    spoil(images, ["train/dog/4.png", "train/dog/5.png"])
    result = run(images, backbone, tmp_path / "out")
    manifest = formats.read_manifest(tmp_path / "out", formats.FEATURES)
    assert [shard["rows"] for shard in manifest["splits"]["train"]["shards"]] == [5, 5]
    assert len(result.skipped) == 2


def test_bytes_depend_on_the_request_alone(
    images: Path, backbone: Backbone, tmp_path: Path
) -> None:
    run(images, backbone, tmp_path / "one")
    images.rename(tmp_path / "moved")
    run(tmp_path / "moved", backbone, tmp_path / "two", batch_size=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_flat_folder_is_all_train(backbone: Backbone, tmp_path: Path) -> None:
    root = write_images(tmp_path / "flat", ["a/1.png", "b/2.png"])
    assert run(root, backbone, tmp_path / "out").rows == {"train": 2}
    assert FeatureFolder.open(tmp_path / "out").split("train").paths == ["a/1.png", "b/2.png"]


@pytest.mark.parametrize(
    ("bad", "options", "message"),
    [
        (["val/cat/0.png"], {"strict": True}, "val/cat/0.png: not an image .* leave out --strict"),
        ([n for n in NAMES if n.startswith("test")], {}, "test: no image from test/cat/0.png on"),
        ([n for n in NAMES if n.startswith("train")], {}, "train: no image from train/cat/0.png"),
        ([n for n in NAMES if "train/dog" in n], {}, "no training image of class 'dog' can be"),
    ],
)
def test_images_that_cannot_be_used_are_data_errors(
    bad: list[str],
    options: dict[str, Any],
    message: str,
    images: Path,
    backbone: Backbone,
    tmp_path: Path,
) -> None:
    spoil(images, bad)
    for _ in range(2):  # again, from the shards that the first run finished
        with pytest.raises(DataError, match=message):
            run(images, backbone, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_features_that_are_not_finite_name_the_image(images: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (9, 9)).save(images / "train/dog/3.png")
    backbone = Backbone.open(write_backbone(tmp_path / "nan", divide=True), threads=1)
    with pytest.raises(DataError, match=r"train/dog/3\.png: the backbone gives NaN"):
        run(images, backbone, tmp_path / "out")


def test_features_of_zero_are_refused(images: Path, tmp_path: Path) -> None:
    backbone = Backbone.open(write_backbone(tmp_path / "zero", gain=0.0), threads=1)
    with pytest.raises(DataError, match="features of 0 only; export the backbone again"):
        run(images, backbone, tmp_path / "out")


def test_a_graph_altered_in_place_is_refused(
    images: Path, backbone: Backbone, tmp_path: Path
) -> None:
    data = bytearray(backbone.onnx.read_bytes())
    data[-40] ^= 1
    backbone.onnx.write_bytes(data)
    with pytest.raises(FormatError, match="sha256 is not that of"):
        run(images, backbone, tmp_path / "out")


def test_an_output_is_replaced_only_by_force_and_only_if_ours(
    images: Path, backbone: Backbone, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(images, backbone, out)
    before = contents(out)
    with pytest.raises(OutputExistsError, match="exists already"):
        run(images, backbone, out)
    run(images, backbone, out, codec="int8", force=True)
    assert contents(out) != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backbone", "images", "out"]
    for other in (images, tmp_path / "backbone", tmp_path / "backbone" / "manifest.json"):
        kept = contents(tmp_path)
        with pytest.raises((OutputExistsError, ConfigError)):
            run(images, backbone, other, force=True)
        assert contents(tmp_path) == kept


def test_outputs_that_make_no_sense_are_refused(
    images: Path, backbone: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="lies inside the images"):
        run(images, backbone, images / "features")
    with pytest.raises(ConfigError, match="is no name for a new folder"):
        run(images, backbone, Path("."))
    (tmp_path / "out.partial").write_text("in the way")
    with pytest.raises(OutputExistsError, match="a file stands in its place"):
        run(images, backbone, tmp_path / "out")


@pytest.mark.parametrize("codec", ["float16-pool2", "int8-pool2", "int4-pool2"])
def test_pooled_features_are_all_there_is(
    codec: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_backbone.with_a_grid(monkeypatch)
    backbone = Backbone.open(tiny_backbone.write_backbone(tmp_path / "grid"), threads=1)
    result = run(images, backbone, tmp_path / "features", codec)
    folder = FeatureFolder.open(tmp_path / "features")
    assert (folder.tokens, folder.prefix_tokens, folder.embed_dim) == (1, 0, 48)
    assert result.bytes_per_image == CODECS[codec].bytes_per_image(1, 48)
    split = folder.split("train")
    pixels = [load_image(images / path, backbone.preprocessing) for path in split.paths]
    features = tiny_backbone.expected_features(np.stack(pixels))
    stored, scale = codecs.encode(CODECS[codec], codecs.pooled(CODECS[codec], features, 0))
    decoded = np.empty((len(features), 1, 48), np.float32)
    codecs.decode(CODECS[codec], stored, scale, decoded)
    z, norms = np.empty_like(decoded), np.empty((len(features), 1), np.float32)
    split.read(np.arange(split.rows), z, norms, np.empty(split.scratch_bytes(split.rows), np.uint8))
    np.testing.assert_array_equal(z, decoded)
    np.testing.assert_array_equal(norms, codecs.token_norms(decoded))


def test_a_backbone_without_a_grid_is_not_pooled(
    images: Path, backbone: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="codec int8-pool2"):
        run(images, backbone, tmp_path / "features", "int8-pool2")
    assert not list(tmp_path.glob("features*"))
