"""Graphs against the adaptor as PyTorch has it, and what else the files must be."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.adaptor import Adaptor
from edge_runtime.codecs import CODECS
from edge_runtime.errors import ConfigError, DataError, ExportError
from edge_runtime.graph_adaptor import GraphAdaptor
from edge_runtime.graph_runners import tflite_interpreter
from export import adaptor as exporter
from export.adaptor import GRAPH_CODECS, RUNTIMES, export_adaptor, sample_features, through
from export.quantize import rounded
from tests.export.adaptor_graphs import KINDS, adaptor_of, need

FORMATS = ["onnx", "tflite"]


def torch_probabilities(adaptor: Adaptor, features: Any) -> Any:
    """In float64, from the adaptor written out in PyTorch."""
    import torch

    from tests.torch_reference import adaptor_logits

    leaves = {name: torch.tensor(a, dtype=torch.float64) for name, a in adaptor.parameters.items()}
    logits = adaptor_logits(adaptor.config, leaves, torch.tensor(features, dtype=torch.float64))
    return logits.softmax(dim=1).numpy()


@pytest.mark.parametrize("codec", GRAPH_CODECS)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_graph_computes_what_pytorch_does(
    kind: str, name: str, codec: str, tmp_path: Path
) -> None:
    need(kind)
    adaptor = adaptor_of(**KINDS[name])
    out = tmp_path / "graph"
    exported = export_adaptor(adaptor, out, kind, codec=codec)
    assert exported.codec == codec and exported.difference < 1e-5
    graph = GraphAdaptor(out, RUNTIMES[kind])
    for batch in sample_features(adaptor.config):  # of one, two and five images
        stored, scale, decoded = through(CODECS[codec], batch)
        found = graph.predict_stored(stored, scale)
        np.testing.assert_allclose(found, torch_probabilities(adaptor, decoded), atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "cls+mean"])
@pytest.mark.parametrize("quantize", ["float16", "int8"])
@pytest.mark.parametrize("kind", FORMATS)
def test_quantised_weights_change_the_weights_alone(
    kind: str, quantize: str, pool: str, tmp_path: Path
) -> None:
    need(kind)
    adaptor = adaptor_of(embed_dim=96, pool=pool)
    plain = export_adaptor(adaptor, tmp_path / "plain", kind)
    exported = export_adaptor(adaptor, tmp_path / "small", kind, quantize=quantize)
    assert exported.bytes < plain.bytes == (tmp_path / "plain").stat().st_size
    assert plain.quantization_change == 0 < exported.quantization_change < 0.05
    graph = GraphAdaptor(tmp_path / "small", RUNTIMES[kind])
    assert graph.quantize == quantize
    adaptor.parameters = rounded(adaptor.parameters, quantize, len(adaptor.config.pools))
    (*_, batch) = sample_features(adaptor.config)
    stored, scale, decoded = through(graph.codec, batch)
    expected = torch_probabilities(adaptor, decoded)
    np.testing.assert_allclose(graph.predict_stored(stored, scale), expected, atol=1e-5)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_adaptor_gives_the_same_bytes(kind: str, tmp_path: Path) -> None:
    need(kind)
    for name in ("one", "two"):
        export_adaptor(adaptor_of(), tmp_path / name, kind, quantize="int8")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "one").read_bytes()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_graph_that_differs_from_numpy_is_not_written(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(kind)
    whole = exporter.emit_adaptor

    def wrong(config: Any, parameters: Any, codec: Any, writer: Any) -> None:
        bias = parameters["head.bias"] + np.linspace(0, 0.01, config.classes, dtype=np.float32)
        whole(config, {**parameters, "head.bias": bias}, codec, writer)

    monkeypatch.setattr(exporter, "emit_adaptor", wrong)
    with pytest.raises(ExportError, match=r"differ from numpy's by .*e-0., at most 1e-04"):
        export_adaptor(adaptor_of(), tmp_path / "graph", kind)
    assert not list(tmp_path.iterdir())


def test_weights_beyond_float32_are_refused(tmp_path: Path) -> None:
    need("onnx")
    adaptor = adaptor_of()
    adaptor.parameters["blocks.qkv"] *= np.float32(1e30)
    with pytest.raises(DataError, match="not finite"):
        export_adaptor(adaptor, tmp_path / "graph", "onnx")
    assert not list(tmp_path.iterdir())


def test_a_codec_that_graphs_cannot_take_is_refused(tmp_path: Path) -> None:
    adaptor = adaptor_of()
    with pytest.raises(ConfigError, match="a graph cannot take codec 'int4'; choose --codec fl"):
        export_adaptor(adaptor, tmp_path / "graph", "onnx", codec="int4")
    need("onnx")
    trained = {"int4": "float32", "int8-pool2": "int8", None: "float32"}
    for number, (codec, expected) in enumerate(trained.items()):
        adaptor.features["codec"] = codec or "float32"
        found = export_adaptor(adaptor, tmp_path / str(number), "onnx")
        assert found.codec == expected


def test_onnx_takes_any_batch_and_leaves_activations_alone(tmp_path: Path) -> None:
    need("onnx")
    import onnx

    export_adaptor(adaptor_of(), tmp_path / "graph", "onnx", quantize="int8")
    model = onnx.load(str(tmp_path / "graph"))
    ends = [*model.graph.input, *model.graph.output]
    assert [end.name for end in ends] == ["features", "scale", "probabilities"]
    assert {end.type.tensor_type.shape.dim[0].dim_param for end in ends} == {"batch"}
    kinds = {node.op_type for node in model.graph.node}
    assert "LayerNormalization" in kinds and not [kind for kind in kinds if "Linear" in kind]


def test_tflite_stands_by_itself_and_carries_its_labels(tmp_path: Path) -> None:
    need("tflite")
    from ai_edge_litert import schema_py_generated as schema

    export_adaptor(adaptor_of(), tmp_path / "graph", "tflite")
    data = (tmp_path / "graph").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("labels.txt").decode().split() == [f"class-{i}" for i in range(5)]
    model = schema.Model.GetRootAs(data)
    for index in range(model.BuffersLength()):
        content = model.Buffers(index)
        if content.DataLength():
            address = content.DataAsNumpy().__array_interface__["data"][0]
            start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
            assert (address - start) % 16 == 0
    interpreter = tflite_interpreter()(model_content=data)
    interpreter.allocate_tensors()
    names = {end["name"]: list(end["shape_signature"]) for end in interpreter.get_input_details()}
    assert names == {"features": [-1, 10, 24], "scale": [-1]}
