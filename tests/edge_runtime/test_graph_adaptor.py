"""Graphs in place of the adaptor: the same answers, and refusals of what is none of ours."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import graph_runners
from edge_runtime.adaptor import Adaptor
from edge_runtime.errors import FormatError
from edge_runtime.features import FeatureFolder
from edge_runtime.graph_adaptor import GraphAdaptor
from edge_runtime.runtimes import open_adaptor, runtime_of
from tests.command_line import edgetune
from tests.export.adaptor_graphs import need
from tests.feature_folders import write_features
from tests.problems import config_of, random_parameters

RUNTIME = {"onnx": "onnxruntime", "tflite": "tflite"}


@pytest.fixture(params=["onnx", "tflite"])
def kind(request: pytest.FixtureRequest) -> str:
    need(str(request.param))
    return str(request.param)


def save_adaptor(path: Path, folder: Path, codec: str = "float16") -> Path:
    """An adaptor with random parameters that fits a feature folder."""
    features = FeatureFolder.open(folder)
    config = config_of(tokens=5, embed_dim=8, classes=3)
    parameters = random_parameters(config, np.float32)
    trained = {"codec": codec, "identity": features.identity}
    Adaptor(config, parameters, features.classes, features.backbone, trained).save(path)
    return path


@pytest.fixture
def files(kind: str, tmp_path: Path) -> tuple[Path, Path, Path]:
    """(adaptor, its graph, features)."""
    from export.adaptor import export_adaptor

    features = write_features(tmp_path / "features").path
    adaptor = save_adaptor(tmp_path / "adaptor", features)
    export_adaptor(Adaptor.load(adaptor), tmp_path / "graph", kind)
    return adaptor, tmp_path / "graph", features


def test_commands_take_a_graph_for_the_adaptor(files: tuple[Path, Path, Path], kind: str) -> None:
    adaptor, graph, features = files
    assert edgetune("evaluate", graph, features).stdout == (
        edgetune("evaluate", adaptor, features).stdout
    )
    answers = []
    for path in (adaptor, graph):
        outcome = edgetune("predict", "--adaptor", path, "--features", features, "--json")
        assert (outcome.exit_code, outcome.stderr) == (0, "")
        answers.append(json.loads(outcome.stdout)["predictions"])
    assert len(answers[0]) == 10
    for ours, theirs in zip(*answers):
        assert ours["image"] == theirs["image"]
        for one, other in zip(ours["top"], theirs["top"]):
            assert one["class"] == other["class"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)
    content = json.loads(edgetune("inspect", graph, "--json").stdout)
    assert content["format"] == "edgetune.graph" and content["runtime"] == RUNTIME[kind]
    assert (content["codec"], content["quantize"], content["rank"]) == ("float16", "none", 4)


def test_a_runtime_that_the_file_is_not_for_is_refused(
    files: tuple[Path, Path, Path], kind: str
) -> None:
    adaptor, graph, features = files
    runtime = RUNTIME[kind]
    assert edgetune("evaluate", graph, features, "--runtime", runtime).exit_code == 0
    assert edgetune("evaluate", adaptor, features, "--runtime", "numpy").exit_code == 0
    line = edgetune("evaluate", adaptor, features, "--runtime", runtime).error
    assert "adaptor is an adaptor file" in line
    assert f"write one with `edgetune export-adaptor --format {kind}`" in line
    line = edgetune("predict", "--adaptor", graph, "--features", features, "--runtime", "numpy")
    assert f"is a graph for {runtime}, and numpy was asked for" in line.error


@pytest.mark.parametrize("codec", ["float32", "float16", "int8"])
@pytest.mark.parametrize("stored", ["float32", "float16", "int8"])
def test_features_of_any_codec_reach_a_graph_of_any(
    kind: str, codec: str, stored: str, tmp_path: Path
) -> None:
    from export.adaptor import export_adaptor

    features = write_features(tmp_path / "features", codec=stored).path
    adaptor = Adaptor.load(save_adaptor(tmp_path / "adaptor", features))
    export_adaptor(adaptor, tmp_path / "graph", kind, codec=codec)
    rows = FeatureFolder.open(features).split("test")
    found = open_adaptor(tmp_path / "graph").predict_proba(rows)
    tolerance = 0.02 if codec == "int8" != stored else 2e-3 if codec == "float16" else 1e-5
    np.testing.assert_allclose(found, adaptor.predict_proba(rows), atol=tolerance)
    if codec == stored:
        np.testing.assert_allclose(found, adaptor.predict_proba(rows), atol=1e-5)


def test_stored_features_are_not_decoded_on_their_way(
    files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, graph, features = files
    rows = FeatureFolder.open(features).split("test")
    opened = open_adaptor(graph)
    expected = opened.predict_proba(rows)
    monkeypatch.delattr("edge_runtime.feature_split.decode")
    np.testing.assert_array_equal(opened.predict_proba(rows), expected)


def test_features_beyond_float32_are_refused(files: tuple[Path, Path, Path]) -> None:
    graph = open_adaptor(files[1])
    assert isinstance(graph, GraphAdaptor)
    stored = np.full((1, 5, 8), np.float16(60000))
    stored[0, :, ::2] *= -1
    from edge_runtime.errors import DataError

    with pytest.raises(DataError, match="not finite"):
        graph.predict_stored(stored, np.array([1e34], np.float32))


def test_the_file_tells_its_runtime_whatever_its_name(files: tuple[Path, Path, Path]) -> None:
    adaptor, graph, features = files
    assert runtime_of(adaptor) == "numpy"
    assert runtime_of(graph) in RUNTIME.values()
    assert runtime_of(features / "manifest.json") == "numpy"
    assert runtime_of(features) == "numpy" == runtime_of(features / "nowhere")


def rewrite(path: Path, kind: str, change: Callable[[Any], object]) -> None:
    """Changes the metadata of a graph."""
    if kind == "onnx":
        import onnx

        model = onnx.load(str(path))
        content = json.loads(model.metadata_props[0].value)
        change(content)
        model.metadata_props[0].value = json.dumps(content)
        onnx.save(model, str(path))
        return
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        content = json.loads(archive.read(graph_runners.METADATA))
        length = archive.infolist()[0].header_offset
    change(content)
    path.write_bytes(data[:length])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(graph_runners.METADATA, json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="other"), "expected format 'edgetune.graph', found 'other'"),
        (lambda m: m.update(version=2), "use the edgetune that wrote it, or a newer one"),
        (lambda m: m.update(codec="int3"), "codec 'int3' is not known here"),
        (lambda m: m.update(codec="int8"), "inputs and outputs are not those of its metadata"),
        (lambda m: m["config"].update(tokens=6), "are not those of its metadata; export the"),
        (lambda m: m["config"].pop("rank"), "entries are not those of an adaptor"),
        (lambda m: m["classes"].pop(), "3 classes need as many names"),
        (lambda m: m.pop("backbone"), "'backbone' is missing or damaged"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(
    files: tuple[Path, Path, Path], kind: str, change: Callable[[Any], object], message: str
) -> None:
    _, graph, features = files
    rewrite(graph, kind, change)
    assert message in edgetune("evaluate", graph, features).error


def test_damage_is_refused(files: tuple[Path, Path, Path], kind: str) -> None:
    _, graph, features = files
    data = graph.read_bytes()
    for part in (data[: len(data) // 2], data[:-30], data[:9], data[:200] + bytes(300)):
        graph.write_bytes(part)
        assert "graph: " in edgetune("evaluate", graph, features).error
    if kind == "tflite":  # where a runtime checks little by itself
        graph.write_bytes(data[:3000] + bytes([data[3000] ^ 1]) + data[3001:])
        assert "its CRC-32 is not that of its metadata" in edgetune("inspect", graph).error


def test_a_graph_of_somebody_else_is_refused(tmp_path: Path) -> None:
    need("onnx")
    from tests.edge_runtime.tiny_backbone import graph

    (tmp_path / "backbone.onnx").write_bytes(graph())
    line = edgetune("inspect", tmp_path / "backbone.onnx").error
    assert "it has no metadata of edgetune, or is cut off; give a file that" in line


def test_a_runtime_that_is_missing_names_its_extra(
    files: tuple[Path, Path, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for module in ("onnxruntime", "ai_edge_litert.interpreter", "ai_edge_litert"):
        monkeypatch.setitem(sys.modules, module, None)
    extra = {"onnx": "ort", "tflite": "tflite"}[kind]
    line = edgetune("evaluate", files[1], files[2]).error
    assert f"pip install 'edgetune[{extra}]'" in line


def test_litert_says_nothing_on_the_terminal(
    files: tuple[Path, Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    open_adaptor(files[1]).predict_proba(np.zeros((3, 5, 8), np.float32))
    assert capfd.readouterr() == ("", "")


def test_metadata_of_any_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr(graph_runners.METADATA, " " * 1000)
    monkeypatch.setattr("edge_runtime.formats.MAX_JSON_BYTES", 999)
    with pytest.raises(FormatError, match="larger than ours can be"):
        graph_runners.zipped_metadata(tmp_path / "zip")
