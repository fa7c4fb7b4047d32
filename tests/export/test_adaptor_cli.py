"""`edgetune export-adaptor` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.adaptor import Adaptor
from edge_runtime.features import FeatureFolder
from edge_runtime.runtimes import open_adaptor
from tests.command_line import edgetune
from tests.export.adaptor_graphs import need
from tests.feature_folders import alter_manifest, write_features
from tests.problems import config_of, random_parameters


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    """(an adaptor file, a feature folder of its backbone)."""
    written = write_features(tmp_path / "features")
    folder = FeatureFolder.open(written.path)
    config = config_of(tokens=5, embed_dim=8, classes=3)
    adaptor = Adaptor(
        config, random_parameters(config, np.float32), folder.classes, folder.backbone
    )
    adaptor.features["codec"] = "float16"
    adaptor.save(tmp_path / "adaptor.safetensors")
    return tmp_path / "adaptor.safetensors", written.path


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_accuracy_of_both_is_told(kind: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    need(kind)
    adaptor, features = inputs
    out = tmp_path / f"adaptor.{kind}"
    arguments = ("export-adaptor", adaptor, "--format", kind, "--out", out, "--quantize", "int8")
    outcome = edgetune(*arguments, "--features", features, "--split", "train", "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    content = json.loads(outcome.stdout)
    assert content["bytes"] == out.stat().st_size and content["difference"] < 1e-4
    expected = {"split": "train", "images": 24}
    for name, path in (("numpy", adaptor), ("graph", out)):
        evaluated = edgetune("evaluate", path, features, "--split", "train", "--json")
        expected[name] = json.loads(evaluated.stdout)["accuracy"]
    assert content["accuracy"] == pytest.approx(expected)

    assert "exists already; choose another name or pass --force" in edgetune(*arguments).error
    lines = edgetune(*arguments, "--force", "--features", features).stdout.splitlines()
    assert "takes float16 features; probabilities within" in lines[0]
    assert "weights in int8 change a probability by at most" in lines[1]
    assert lines[2].startswith("accuracy on test (10 images): ") and "a drop of " in lines[2]


def test_refusals(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    need("onnx")
    adaptor, features = inputs
    out = tmp_path / "graph"
    common = ("--format", "onnx", "--out", out)
    shard = features / "val-00000.safetensors"
    assert "found 'edgetune.shard'" in edgetune("export-adaptor", shard, *common).error
    assert "no such file" in edgetune("export-adaptor", "nowhere", *common).error
    folder = edgetune("export-adaptor", adaptor, "--format", "onnx", "--out", tmp_path)
    assert "is a folder; give the name of the file to write" in folder.error
    alter_manifest(features, lambda m: m.update(classes=["a", "b", "c"]))
    line = edgetune("export-adaptor", adaptor, *common, "--features", features).error
    assert "knows the classes class-0, class-1, class-2" in line and "has a, b, c" in line
    alter_manifest(features, lambda m: m["backbone"].update(identity="0" * 64, k=7))
    line = edgetune("export-adaptor", adaptor, *common, "--features", features).error
    assert "they differ in k" in line
    assert not out.exists()
    assert edgetune("export-adaptor", adaptor, "--out", out).exit_code == 2
    assert edgetune("export-adaptor", adaptor, *common, "--codec", "int4").exit_code == 2


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_the_graph_of_an_adaptor_in_a_basis(kind: str, tmp_path: Path) -> None:
    """It takes what the folder stores, and knows the basis: images can be predicted with it."""
    need(kind)
    features = write_features(tmp_path / "features", separation=8.0).path
    small, adaptor, out = tmp_path / "small", tmp_path / "adaptor", tmp_path / "graph"
    edgetune("transcode", features, "--codec", "int8", "--basis", 4, "--out", small)
    edgetune("train", small, "--epochs", 2, "--batch-size", 8, "--rank", 2, "--out", adaptor)
    command = ("export-adaptor", adaptor, "--format", kind, "--out", out, "--features", small)
    outcome = edgetune(*command, "--json")
    assert outcome.exit_code == 0, outcome
    accuracy = json.loads(outcome.stdout)["accuracy"]
    assert accuracy["numpy"] == accuracy["graph"]
    graph, trained = open_adaptor(out), Adaptor.load(adaptor)
    assert graph.basis is not None and trained.basis is not None
    assert graph.basis.identity == trained.basis.identity
    assert (graph.config.embed_dim, graph.basis.embed_dim) == (4, 8)
    described = json.loads(edgetune("inspect", out, "--json").stdout)
    assert described["basis"] == {"identity": graph.basis.identity, "width": 4, "embed_dim": 8}
    assert "as the backbone gives them" in edgetune("evaluate", out, features).error
