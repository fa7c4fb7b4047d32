"""`edgetune transcode` and all that follows from a basis: train, evaluate, predict, verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.adaptor import Adaptor
from edge_runtime.basis import FILE, Basis
from edge_runtime.errors import FormatError, MismatchError
from edge_runtime.features import FeatureFolder
from tests.command_line import edgetune
from tests.edge_runtime.tiny_backbone import contents
from tests.feature_folders import alter_manifest, write_features
from trainer_lite.directions import Directions

TRAIN = ("--epochs", 6, "--batch-size", 8, "--rank", 2, "--blocks", 1)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    return write_features(tmp_path / "features", tokens=17, separation=8.0).path


def made(features: Path, *options: object, name: str = "small") -> Path:
    out = features.with_name(name)
    outcome = edgetune("transcode", features, "--out", out, *options)
    assert outcome.exit_code == 0, outcome
    return out


@pytest.fixture
def small(features: Path) -> Path:
    return made(features, "--codec", "int4-pool2", "--basis", 4)


@pytest.fixture
def adaptor(small: Path) -> Path:
    path = small.with_name("adaptor")
    assert edgetune("train", small, "--out", path, *TRAIN).exit_code == 0
    return path


def test_the_folder_holds_the_features_in_the_basis(tmp_path: Path) -> None:
    written = write_features(tmp_path / "features", codec="float32")
    folder = FeatureFolder.open(made(written.path, "--basis", 3))
    basis = Directions([written.features["train"]]).basis(3)
    assert folder.basis is not None and folder.basis.identity == basis.identity
    assert (folder.embed_dim, folder.tokens, folder.codec.name) == (3, 5, "float32")
    for name in folder.split_names:
        split = folder.split(name)
        z, norms = np.empty((split.rows, 5, 3), np.float32), np.empty((split.rows, 5), np.float32)
        scratch = np.empty(split.scratch_bytes(split.rows), np.uint8)
        split.read(np.arange(split.rows), z, norms, scratch)
        np.testing.assert_array_equal(z, basis.apply(written.features[name]))
        assert split.paths == written.paths[name]
        np.testing.assert_array_equal(split.labels, written.labels[name])


def test_without_a_basis_only_the_codec_changes(features: Path) -> None:
    folder = FeatureFolder.open(made(features, "--codec", "int8"))
    assert (folder.codec.name, folder.basis, folder.embed_dim) == ("int8", None, 8)
    assert not (folder.path / FILE).exists()


def test_the_same_command_gives_the_same_bytes(features: Path, small: Path) -> None:
    again = made(features, "--codec", "int4-pool2", "--basis", 4, name="again")
    assert contents(small) == contents(again)
    taken = made(features, "--codec", "int4-pool2", "--basis", small, name="taken")
    assert contents(small) == contents(taken)


def test_a_basis_goes_from_features_to_adaptor_to_evaluation(small: Path, adaptor: Path) -> None:
    folder, loaded = FeatureFolder.open(small), Adaptor.load(adaptor)
    assert folder.basis is not None and loaded.basis is not None
    assert loaded.basis.identity == folder.basis.identity
    assert loaded.config.embed_dim == 4
    assert loaded.training["lr"] == 0.02
    found = json.loads(edgetune("evaluate", adaptor, small, "--json").stdout)
    assert found["accuracy"] > 0.8
    predicted = edgetune("predict", "--adaptor", adaptor, "--features", small, "--json")
    assert len(json.loads(predicted.stdout)["predictions"]) == 10
    for path in (small, adaptor):
        content = json.loads(edgetune("inspect", path, "--verify", "--json").stdout)
        assert content["basis"]["identity"] == folder.basis.identity
    content = json.loads(edgetune("inspect", small / FILE, "--json").stdout)
    assert (content["identity"], content["width"]) == (folder.basis.identity, 4)
    chain = edgetune("verify", small, adaptor)
    assert chain.exit_code == 0
    assert chain.stdout.count(f"in basis {folder.basis.identity[:12]}") == 2


def test_a_learning_rate_that_was_given_stays(small: Path) -> None:
    path = small.with_name("adaptor")
    options = (*TRAIN, "--kind", "linear", "--rank", 0, "--blocks", 0, "--lr", 0.5)
    assert edgetune("train", small, "--out", path, *options).exit_code == 0
    assert Adaptor.load(path).training["lr"] == 0.5


def test_the_same_run_gives_the_same_bits_with_checkpoints(small: Path, adaptor: Path) -> None:
    again, run = small.with_name("again"), small.with_name("run")
    command = ("train", small, "--out", again, *TRAIN, "--checkpoint", run, "--every", 1)
    assert edgetune(*command).exit_code == 0
    assert again.read_bytes() == adaptor.read_bytes()


def test_features_in_no_basis_or_in_another_are_refused(
    features: Path, small: Path, adaptor: Path
) -> None:
    write_features(features.with_name("others"), tokens=17, seed=1)
    options = ("--codec", "int4-pool2", "--basis")
    other = made(features.with_name("others"), *options, 4, name="other")
    for folder in (features, other):
        assert "in a basis of 4 (identity" in edgetune("evaluate", adaptor, folder).error
        refused = edgetune("predict", "--adaptor", adaptor, "--features", folder)
        assert "transcode --basis" in refused.error
    taken = made(features.with_name("others"), *options, small, name="taken")
    assert edgetune("evaluate", adaptor, taken).exit_code == 0
    plain = small.with_name("plain")
    assert edgetune("train", features, "--out", plain, *TRAIN).exit_code == 0
    assert "as the backbone gives them" in edgetune("evaluate", plain, small).error


def test_what_cannot_be_is_refused(features: Path, small: Path, tmp_path: Path) -> None:
    def refused(source: Path, *options: object, out: Path = tmp_path / "new") -> str:
        before = sorted(tmp_path.iterdir())
        error = edgetune("transcode", source, "--out", out, *options).error
        assert sorted(tmp_path.iterdir()) == before
        return error

    assert "at most as many as these features, 8" in refused(features, "--basis", 9)
    assert "2 numbers a token at least" in refused(features, "--basis", 1)
    assert "is in no basis" in refused(features, "--basis", features)
    assert "is not a feature folder" in refused(features, "--basis", tmp_path / "none")
    assert "features in a basis of 4" in refused(small, "--codec", "int4")
    assert "exists already" in refused(features, "--basis", 4, out=small)
    assert "is, or lies inside" in refused(features, out=features / "new")
    wide = write_features(tmp_path / "wide", embed_dim=9).path
    assert "8 wide, these are 9" in refused(wide, "--basis", small)


def test_an_altered_basis_is_found(small: Path, adaptor: Path) -> None:
    data = (small / FILE).read_bytes()
    (small / FILE).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(FormatError, match="basis"):
        FeatureFolder.open(small)
    (small / FILE).write_bytes(data[:-1])
    with pytest.raises(FormatError, match="truncated or altered"):
        FeatureFolder.open(small)
    (small / FILE).unlink()
    with pytest.raises(FormatError, match="is missing"):
        FeatureFolder.open(small)
    data = adaptor.read_bytes()
    adaptor.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(FormatError, match="basis"):
        Adaptor.load(adaptor)


def test_a_basis_of_another_width_than_the_features_is_refused(small: Path) -> None:
    def change(manifest: Any) -> None:
        del manifest["basis"]

    folder = FeatureFolder.open(small)
    rng = np.random.default_rng(0)
    other = Directions([rng.standard_normal((3, 3, 8)).astype(np.float32)]).basis(5)
    assert folder.basis is not None
    with pytest.raises(MismatchError):
        Basis(folder.basis.matrix).apply(np.zeros((1, 1, 9), np.float32))
    entry = {**folder.manifest["basis"], "identity": other.identity}
    alter_manifest(small, lambda manifest: manifest.update(basis=entry))
    with pytest.raises(FormatError, match="not the one that it names"):
        FeatureFolder.open(small)
    alter_manifest(small, change)
    assert FeatureFolder.open(small).basis is None
