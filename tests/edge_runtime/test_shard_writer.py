"""Shards hold what docs/formats.md says, whichever library reads them."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import codecs, shard_writer, tensorfile
from edge_runtime.codecs import CODECS, PLAIN
from edge_runtime.errors import DataError, FormatError
from edge_runtime.shard_writer import ShardBuffer, describe, rows_per_shard, shard_name

Array = np.ndarray[Any, Any]
TOKENS, DIM = 3, 5


def some_features(rows: int) -> Array:
    features = np.random.default_rng(rows).normal(0, 3, (rows, TOKENS, DIM)).astype(np.float32)
    features[0] *= 1e5  # beyond float16
    return features


def write(path: Path, codec: str, rows: int = 4, batches: int = 1) -> Array:
    """Writes a shard of split val in so many batches; returns the features it was given."""
    buffer = ShardBuffer(CODECS[codec], 7, TOKENS, DIM)
    features = some_features(rows)
    buffer.skip("val/a/bad.png", "not an image")
    for part in np.array_split(np.arange(rows), batches):
        buffer.add(features[part], [int(r) % 2 for r in part], [f"val/a/{r}.png" for r in part])
    buffer.write(path, "val")
    return features


@pytest.mark.parametrize("codec", sorted(PLAIN))
def test_a_shard_holds_what_was_added(codec: str, tmp_path: Path) -> None:
    path = tmp_path / shard_name("val", 3)
    features = write(path, codec)
    assert path.name == "val-00003.safetensors"
    tensors, metadata = tensorfile.read(path)
    order = ["norms", "scale", "labels", "features"]
    assert list(tensors) == [n for n in order if n != "scale" or codec != "float32"]
    stored, scale = codecs.encode(CODECS[codec], features)
    decoded = np.empty(features.shape, np.float32)
    codecs.decode(CODECS[codec], stored, scale, decoded)
    np.testing.assert_array_equal(tensors["features"], stored)
    if scale is not None:
        np.testing.assert_array_equal(tensors["scale"], scale)
    np.testing.assert_array_equal(tensors["norms"], codecs.token_norms(decoded))
    np.testing.assert_array_equal(tensors["labels"], np.array([0, 1, 0, 1], np.int32))
    assert {name: str(tensors[name].dtype) for name in ("norms", "labels")} == {
        "norms": "float32",
        "labels": "int32",
    }
    assert (metadata["format"], metadata["version"]) == ("edgetune.shard", "1")
    assert (metadata["split"], metadata["codec"]) == ("val", codec)
    assert json.loads(metadata["paths"]) == [f"val/a/{row}.png" for row in range(4)]
    assert json.loads(metadata["skipped"]) == [["val/a/bad.png", "not an image"]]
    exact = np.square(decoded, dtype=np.float64).sum()
    assert float(metadata["sum_squares"]) == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize("codec", sorted(PLAIN))
def test_safetensors_reads_the_same(codec: str, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    safe_numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "val-00000.safetensors"
    write(path, codec)
    tensors, metadata = tensorfile.read(path)
    theirs = safe_numpy.load_file(path)
    assert set(theirs) == set(tensors)
    for name, value in theirs.items():
        assert value.dtype == tensors[name].dtype
        np.testing.assert_array_equal(value, tensors[name])
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == metadata


@pytest.mark.parametrize("codec", sorted(PLAIN))
def test_bytes_do_not_depend_on_the_batches(codec: str, tmp_path: Path) -> None:
    write(tmp_path / "one", codec, batches=1)
    write(tmp_path / "three", codec, batches=3)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "three").read_bytes()


def test_a_buffer_is_used_again(tmp_path: Path) -> None:
    buffer = ShardBuffer(CODECS["int8"], 4, TOKENS, DIM)
    features = some_features(4)
    buffer.add(features, [0, 1, 0, 1], list("abcd"))
    assert (buffer.rows, buffer.free) == (4, 0)
    buffer.write(tmp_path / "full", "train")
    buffer.clear()
    buffer.add(features[:1], [0], ["a"])
    shard = buffer.write(tmp_path / "short", "train")
    assert (shard.rows, shard.paths, shard.skipped) == (1, ("a",), ())


def test_the_description_has_size_and_hashes(tmp_path: Path) -> None:
    path = tmp_path / "val-00000.safetensors"
    write(path, "float16")
    shard = describe(path, "val", CODECS["float16"], TOKENS, DIM)
    data = path.read_bytes()
    assert shard.entry() == {
        "file": "val-00000.safetensors",
        "rows": 4,
        "bytes": len(data),
        "crc32": zlib.crc32(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert shard.paths[-1] == "val/a/3.png"
    assert shard.skipped == (("val/a/bad.png", "not an image"),)


def test_another_shard_is_not_described(tmp_path: Path) -> None:
    path = tmp_path / "val-00000.safetensors"
    with pytest.raises(FormatError, match="no such file"):
        describe(path, "val", CODECS["float16"], TOKENS, DIM)
    write(path, "float16")
    for split, codec, tokens in (
        ("train", "float16", 3),
        ("val", "int8", 3),
        ("val", "float16", 4),
    ):
        with pytest.raises(FormatError):
            describe(path, split, CODECS[codec], tokens, DIM)
    tensors, metadata = tensorfile.read(path)
    for entry, value in (("paths", "[1, 2, 3, 4]"), ("paths", "{"), ("skipped", "[1]")):
        tensorfile.write(path, tensors, {**metadata, entry: value})
        with pytest.raises(FormatError, match="missing or damaged"):
            describe(path, "val", CODECS["float16"], TOKENS, DIM)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="truncated"):
        describe(path, "val", CODECS["float16"], TOKENS, DIM)


def test_rows_fill_about_16_mib() -> None:
    assert rows_per_shard(16 << 20) == 1
    assert rows_per_shard((16 << 20) + 1) == 1
    assert rows_per_shard(197 * 768 * 2 + 4) == 55
    assert rows_per_shard(1) == shard_writer.MAX_ROWS


def test_a_header_longer_than_readers_take_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_writer, "MAX_LIST_BYTES", 60)
    with pytest.raises(DataError, match="4 images and 1 unreadable ones do not fit"):
        write(tmp_path / "val-00000.safetensors", "int8")
    assert not any(tmp_path.iterdir())
