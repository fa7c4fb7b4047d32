"""Codecs compared: the same features in each, and the smallest that is good enough."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.codecs import CODECS, encode, pooled
from edge_runtime.errors import ConfigError
from edge_runtime.features import FeatureFolder
from tests.command_line import edgetune
from tests.feature_folders import write_features
from trainer_lite.frontier import Point, candidates, form_name, recommended
from trainer_lite.transcode import transcode


@pytest.mark.parametrize("name", ["float16", "int8", "int4", "int8-pool2"])
def test_a_transcoded_folder_is_what_extract_would_have_stored(name: str, tmp_path: Path) -> None:
    written = write_features(tmp_path / "features", codec="float32", tokens=17, embed_dim=6)
    copy = transcode(FeatureFolder.open(written.path), CODECS[name], tmp_path / "copy")
    copy.check()
    for split in copy.split_names:
        stored, scale = encode(CODECS[name], pooled(CODECS[name], written.features[split], 1))
        part = copy.split(split)
        norms = np.empty((part.rows, part.tokens), np.float32)
        scratch = np.empty(part.scratch_bytes(part.rows), np.uint8)
        found, factors = part.read_stored(np.arange(part.rows), norms, scratch)
        np.testing.assert_array_equal(found, stored)
        np.testing.assert_array_equal(factors, scale)
        np.testing.assert_array_equal(part.labels, written.labels[split])


def test_only_what_loses_more_is_a_candidate(tmp_path: Path) -> None:
    half = FeatureFolder.open(write_features(tmp_path / "a", tokens=17).path)
    assert {codec.name for codec, _ in candidates(half)} == set(CODECS) - {"float32"}
    odd = FeatureFolder.open(write_features(tmp_path / "b", tokens=10).path)
    assert not any(codec.pool > 1 for codec, _ in candidates(odd, [4]))
    in_bases = {form_name(codec.name, width) for codec, width in candidates(odd, [4, 6])}
    assert in_bases == {"float16", "int8", "int4"} | {
        f"{codec} basis {width}" for codec in ("int8", "int4") for width in (4, 6)
    }


def test_pooled_features_are_refused(tmp_path: Path) -> None:
    whole = FeatureFolder.open(write_features(tmp_path / "a", codec="float32", tokens=17).path)
    pooled = transcode(whole, CODECS["int8-pool2"], tmp_path / "pooled")
    with pytest.raises(ConfigError, match="pooled features"):
        transcode(pooled, CODECS["int8"], tmp_path / "again")


def test_the_smallest_within_a_point_of_the_best_is_recommended() -> None:
    points = [
        Point("large", None, 400, [0.90, 0.94], []),
        Point("good", 64, 100, [0.912, 0.912], []),
        Point("small", None, 50, [0.90, 0.90], []),
    ]
    assert recommended(points).name == "good basis 64"


def test_the_command(tmp_path: Path) -> None:
    features = write_features(tmp_path / "features", tokens=17, separation=8.0).path
    options = ("--epochs", 1, "--batch-size", 8, "--rank", 2, "--blocks", 1)
    found = json.loads(edgetune("codecs", features, "--seeds", 2, *options, "--json").stdout)
    sizes = [entry["bytes_per_image"] for entry in found["codecs"]]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 10
    assert [entry["basis"] for entry in found["codecs"]].count(4) == 4
    assert all(len(entry["val"]) == len(entry["test"]) == 2 for entry in found["codecs"])
    table = edgetune("codecs", features, *options, "--basis", 0).stdout
    assert table.count("recommended") == 1 and "basis" not in table
    small = tmp_path / "small"
    command = shlex.split(
        table.splitlines()[-1].partition("edgetune ")[2].replace("OUT", str(small))
    )
    assert edgetune(*command).exit_code == 0
    assert edgetune("train", small, "--out", tmp_path / "a", *options).exit_code == 0
    write_features(tmp_path / "no-val", rows={"train": 12}, tokens=17)
    assert "val split" in edgetune("codecs", tmp_path / "no-val", *options).error
