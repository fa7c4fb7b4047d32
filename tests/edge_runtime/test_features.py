"""Feature folders give back what was written, and damage is found wherever it is."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import feature_split, formats, tensorfile
from edge_runtime.codecs import PLAIN, token_norms
from edge_runtime.errors import DataError, FormatError
from edge_runtime.features import FeatureFolder
from edge_runtime.sources import ArrayFeatures, FeatureSource
from tests.feature_folders import Written, alter_manifest, alter_shard, decoded, write_features

Array = np.ndarray[Any, Any]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return write_features(tmp_path / "features")


def read(source: FeatureSource, rows: Array, dtype: Any = np.float32) -> tuple[Array, Array]:
    """(features, norms) of some rows."""
    z = np.full((len(rows), source.tokens, source.embed_dim), np.nan, dtype)
    norms = np.full((len(rows), source.tokens), np.nan, dtype)
    source.read(rows, z, norms, np.empty(source.scratch_bytes(len(rows)), np.uint8))
    return z, norms


@pytest.mark.parametrize("codec", PLAIN)
def test_rows_in_any_order_are_what_was_written(codec: str, tmp_path: Path) -> None:
    written = write_features(tmp_path / "features", codec=codec)
    folder = FeatureFolder.open(written.path)
    assert folder.split_names == ["train", "val", "test"]
    order = np.random.default_rng(0).permutation(24)
    for name in folder.split_names:
        split = folder.split(name)
        rows = order[order < split.rows]
        expected = decoded(written.features[name], codec)[rows]
        z, norms = read(split, rows)
        np.testing.assert_array_equal(z, expected)
        np.testing.assert_array_equal(norms, token_norms(expected))
        np.testing.assert_array_equal(split.labels, written.labels[name])
        assert split.paths == written.paths[name]
        assert split.rms == pytest.approx(
            np.sqrt(np.square(decoded(written.features[name], codec)).mean())
        )


@pytest.mark.parametrize("codec", PLAIN)
def test_the_same_row_can_be_asked_for_twice_and_in_float64(codec: str, tmp_path: Path) -> None:
    written = write_features(tmp_path / "features", codec=codec)
    split = FeatureFolder.open(written.path).split("train")
    rows = np.array([20, 3, 20])
    z, norms = read(split, rows, np.float64)
    expected = decoded(written.features["train"], codec)[rows]
    np.testing.assert_allclose(z, expected, rtol=1e-6)
    np.testing.assert_array_equal(norms, token_norms(expected).astype(np.float64))


def test_more_shards_than_may_be_open_are_read(tmp_path: Path) -> None:
    count = feature_split.MAX_OPEN_SHARDS + 6
    written = write_features(tmp_path / "features", rows={"train": count}, shard_rows=1)
    split = FeatureFolder.open(written.path).split("train")
    assert len(split.shards) == count
    for rows in (np.arange(count), np.arange(count)[::-1]):
        z, _ = read(split, rows)
        np.testing.assert_array_equal(z, decoded(written.features["train"], "float16")[rows])
    assert len(split._open) <= feature_split.MAX_OPEN_SHARDS


def test_a_closed_split_opens_again(written: Written) -> None:
    split = FeatureFolder.open(written.path).split("val")
    before = read(split, np.arange(8))
    split.close()
    np.testing.assert_array_equal(read(split, np.arange(8))[0], before[0])


def test_a_missing_split_is_refused_with_those_there_are(tmp_path: Path) -> None:
    written = write_features(tmp_path / "features", rows={"train": 4, "val": 3})
    with pytest.raises(DataError, match="has no test split; it has train, val"):
        FeatureFolder.open(written.path).split("test")


def test_arrays_are_a_source_too() -> None:
    values = np.random.default_rng(0).standard_normal((4, 3, 2))
    source = ArrayFeatures(values, [0, 1, 0, 1])
    z, norms = read(source, np.array([2, 0]))
    np.testing.assert_array_equal(z, values[[2, 0]].astype(np.float32))
    np.testing.assert_allclose(norms, token_norms(z), rtol=1e-6)


def test_norms_of_arrays_bear_means_far_from_zero() -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 768)) + 500
    z, norms = read(ArrayFeatures(values), np.arange(2))
    np.testing.assert_allclose(norms, token_norms(z), rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (np.zeros((3, 2)), None, "must be rows x tokens x dim, not of shape"),
        (np.zeros((3, 2, 2)), [0, 1], "3 feature maps need as many labels"),
        (np.full((1, 2, 2), np.nan), None, "NaN or infinite"),
    ],
)
def test_arrays_that_are_no_features_are_refused(values: Array, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ArrayFeatures(values, labels)


def set_entry(*keys: Any) -> Callable[[Any], None]:
    """Sets manifest[keys[0]][keys[1]]... to the last of `keys`."""
    *path, last, value = keys

    def change(manifest: Any) -> None:
        for key in path:
            manifest = manifest[key]
        manifest[last] = value

    return change


FIRST = ("splits", "train", "shards", 0)
MANIFESTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "version": (set_entry("version", 2), "version 2 of edgetune.features is not known"),
    "format": (set_entry("format", "edgetune.backbone"), "expected format 'edgetune.features'"),
    "codec": (set_entry("codec", "int3"), "codec 'int3' is not known here"),
    "no codec": (lambda m: m.pop("codec"), "'codec' is missing or not of type str"),
    "tokens": (set_entry("tokens", 0), "'tokens' must be at least 1, found 0"),
    "tokens boolean": (set_entry("tokens", True), "'tokens' is missing or not of type int"),
    "tokens wrong": (set_entry("tokens", 50), "too small for 7 rows of 50 tokens x 8"),
    "width": (set_entry("embed_dim", -8), "'embed_dim' must be at least 1"),
    "prefix": (set_entry("prefix_tokens", -1), "'prefix_tokens' must be at least 0"),
    "eps": (set_entry("norm_eps", 0), "'norm_eps' must be above 0"),
    "classes": (set_entry("classes", "abc"), "'classes' is missing or not of type list"),
    "class twice": (set_entry("classes", ["a", "b", "a"]), "must be names that differ"),
    "class a number": (set_entry("classes", ["a", "b", 3]), "must be names that differ"),
    "backbone": (set_entry("backbone", {}), "'identity' is missing"),
    "no train": (lambda m: m["splits"].pop("train"), "there is no train split"),
    "odd split": (lambda m: m["splits"].update(dev={}), "'dev' is not one of train, val, test"),
    "rms": (set_entry("splits", "val", "rms", 0), "'rms' must be above 0"),
    "no shards": (
        set_entry("splits", "val", "shards", []),
        "should have 8 rows, its shards have 0",
    ),
    "rows": (set_entry("splits", "val", "rows", 9), "should have 9 rows, its shards have 8"),
    "entry": (set_entry("splits", "train", "shards", 0, "x"), "a shard entry is not an object"),
    "shard rows": (set_entry(*FIRST, "rows", 0), "'rows' must be at least 1"),
    "many rows": (set_entry(*FIRST, "rows", 10**15), "too small for 1000000000000000 rows"),
    "no crc32": (lambda m: m["splits"]["train"]["shards"][0].pop("crc32"), "'crc32' is missing"),
    "bytes": (set_entry(*FIRST, "bytes", 5), "should have 5 bytes and has"),
    "missing": (set_entry(*FIRST, "file", "train-9.safetensors"), "is missing; run extract"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_cannot_be_is_refused(case: str, written: Written) -> None:
    change, message = MANIFESTS[case]
    alter_manifest(written.path, change)
    with pytest.raises(FormatError, match=message):
        FeatureFolder.open(written.path)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "", ".", "..", ".hidden", "a\0b", "\ud800", "a b", "x\n"]
)
def test_a_shard_name_that_leads_elsewhere_is_refused(name: str, written: Written) -> None:
    alter_manifest(written.path, set_entry(*FIRST, "file", name))
    with pytest.raises(FormatError, match="is not a plain file name"):
        FeatureFolder.open(written.path)


def test_every_truncation_of_a_shard_is_found_at_opening(written: Written) -> None:
    path = written.path / "val-00001.safetensors"
    data = path.read_bytes()
    for size in (0, 7, 8, 100, len(data) - 1, len(data) + 1):
        path.write_bytes(data[:size].ljust(size, b"\0"))
        with pytest.raises(FormatError, match=f"should have {len(data)} bytes and has {size}"):
            FeatureFolder.open(written.path)


def test_any_altered_byte_of_a_shard_is_found_when_it_is_read(written: Written) -> None:
    path = written.path / "test-00001.safetensors"
    data = path.read_bytes()
    for position in (0, 9, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        folder = FeatureFolder.open(written.path)
        read(folder.split("test"), np.arange(7))  # the other shard is sound
        for _ in range(2):  # and an error does not go away by trying again
            with pytest.raises(FormatError, match="test-00001"):
                read(folder.split("test"), np.array([8]))
        with pytest.raises(FormatError, match="test-00001"):
            folder.check()


def test_a_shard_that_vanishes_is_named(written: Written) -> None:
    folder = FeatureFolder.open(written.path)
    (written.path / "val-00000.safetensors").unlink()
    with pytest.raises(FormatError, match="val-00000.safetensors is missing; run extract again"):
        read(folder.split("val"), np.array([0]))


def test_a_sound_folder_passes_its_check(written: Written) -> None:
    FeatureFolder.open(written.path).check()
    assert all(good for _, good in FeatureFolder.open(written.path).verify())


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("codec", "tensor"),
    [("float16", "norms"), ("float16", "features"), ("float32", "features"), ("int8", "scale")],
)
def test_nan_in_a_shard_is_found_though_its_crc_is_right(
    codec: str, tensor: str, value: float, tmp_path: Path
) -> None:
    written = write_features(tmp_path / "features", codec=codec)

    def spoil(tensors: dict[str, Array]) -> None:
        tensors[tensor].reshape(-1)[-1] = value

    alter_shard(written.path, "train", spoil)
    with pytest.raises(DataError, match="holds NaN or infinite features; extract again"):
        FeatureFolder.open(written.path).check()


@pytest.mark.parametrize("label", [-1, 3, 2**31 - 1])
def test_a_label_of_no_class_is_found(label: int, written: Written) -> None:
    alter_shard(written.path, "val", lambda tensors: tensors["labels"].fill(label))
    with pytest.raises(FormatError, match="a label of split val names no class"):
        FeatureFolder.open(written.path).check()


def test_tensors_of_another_shape_or_type_are_found(written: Written) -> None:
    for change in (
        lambda t: t.update(labels=t["labels"].astype(np.float32)),
        lambda t: t.update(labels=t["labels"][:-1]),
        lambda t: t.update(extra=np.zeros(1, np.int8)),
    ):
        alter_shard(written.path, "val", change)
        with pytest.raises(FormatError, match="its tensors are not those of its manifest"):
            FeatureFolder.open(written.path).check()


def test_a_shard_without_its_paths_is_found_when_they_are_wanted(written: Written) -> None:
    path = written.path / "val-00000.safetensors"
    tensors, metadata = tensorfile.read(path)
    for listed in ("[]", "{", '"abcdefg"', "[" * 10_000):
        tensorfile.write(path, tensors, {**metadata, "paths": listed})
        alter_shard(written.path, "val", lambda tensors: None)
        with pytest.raises(FormatError, match="'paths' does not list its rows"):
            _ = FeatureFolder.open(written.path).split("val").paths


def test_a_shard_of_another_version_is_refused(written: Written) -> None:
    path = written.path / "val-00000.safetensors"
    tensors, metadata = tensorfile.read(path)
    tensorfile.write(path, tensors, {**metadata, "version": "2"})
    alter_shard(written.path, "val", lambda tensors: None)
    with pytest.raises(FormatError, match=f"version '2' of {formats.SHARD} is not known here"):
        FeatureFolder.open(written.path).check()


def test_files_are_closed_when_the_folder_is_dropped(written: Written) -> None:
    folder = FeatureFolder.open(written.path)
    folder.check()
    files = [file for file, _ in folder.split("train")._open.values()]
    assert len(files) == 4 and not any(file.closed for file in files)
    del folder
    gc.collect()
    assert all(file.closed for file in files)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no such call here")
def test_prefetch_names_the_bytes_of_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_features(tmp_path / "features", codec="float32")
    split = FeatureFolder.open(written.path).split("train")
    asked: list[bytes] = []

    def advise(fd: int, start: int, size: int, advice: int) -> None:
        asked.append(os.pread(fd, size, start))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    rows = np.array([0, 9, 23])
    split.prefetch(rows)
    assert asked == [written.features["train"][row].tobytes() for row in rows]
