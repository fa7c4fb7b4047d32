"""Model repositories: what Triton's own parser reads in them, and a Triton that runs one."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.adaptor import Adaptor
from edge_runtime.backbone import Backbone
from edge_runtime.codecs import CODECS, encode, pooled
from tests import triton
from tests.command_line import edgetune
from tests.edge_runtime import tiny_backbone
from tests.edge_runtime.tiny_backbone import contents, write_backbone, write_image, write_images
from tests.problems import config_of, random_parameters
from tests.serving import Running

for module in ("onnx", "onnxruntime", "PIL"):
    pytest.importorskip(module)

TYPES = {
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
}


def parsed(config: Path) -> Any:
    """config.pbtxt as Triton reads it, by the protobuf classes of its client."""
    spec = importlib.util.find_spec("tritonclient")
    if spec is None or spec.origin is None:
        pytest.skip("needs tritonclient")
    path = Path(spec.origin).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)  # without grpc itself
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from google.protobuf import text_format

    return text_format.Parse(config.read_text(), module.ModelConfig())


def published(config: Any) -> Any:
    return json.loads(config.parameters["edgetune"].string_value)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("merge", [True, False])
def test_the_onnxruntime_configuration_fits_the_graph(
    dtype: str, merge: bool, tmp_path: Path
) -> None:
    import onnxruntime

    backbone = write_backbone(tmp_path / "backbone", dtype, scale=2.0 if dtype == "float16" else 1)
    options = ("--max-batch", 8, "--instances", 2, "--max-wait", 1.5)
    if not merge:
        options += ("--no-merge",)
    outcome = edgetune("triton-repo", backbone, "--out", tmp_path / "models", *options)
    assert outcome.exit_code == 0, outcome
    model = tmp_path / "models" / "tiny"
    config = parsed(model / "config.pbtxt")
    assert (config.name, config.backend) == ("tiny", "onnxruntime")
    assert config.max_batch_size == (8 if merge else 0)
    assert config.HasField("dynamic_batching") == merge
    assert config.dynamic_batching.max_queue_delay_microseconds == (1500 if merge else 0)
    assert [group.count for group in config.instance_group] == [2]
    graph = model / "1" / "model.onnx"
    assert graph.read_bytes() == (backbone / "backbone.onnx").read_bytes()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    noise = np.zeros((3, *session.get_inputs()[0].shape[1:]), np.uint8)
    (features,) = session.run(None, {"images": noise})
    lead = [] if merge else [-1]
    (given,), (made,) = config.input, config.output
    (wanted,), (output,) = session.get_inputs(), session.get_outputs()
    proto = type(config).DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    for tensor, of_graph, shape in ((given, wanted, noise.shape), (made, output, features.shape)):
        assert tensor.name == of_graph.name
        assert proto[tensor.data_type].name == TYPES[of_graph.type]
        assert list(tensor.dims) == [*lead, *shape[1:]]
    said = published(config)
    assert said["manifest"] == json.loads((backbone / "manifest.json").read_text())
    assert said["as_computed"] and said["max_batch"] == 8 and not said["batch_invariant"]


def test_the_python_configuration_offers_what_our_server_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.serve.model import ServedModel

    tiny_backbone.with_a_grid(monkeypatch)
    backbone = write_backbone(tmp_path / "backbone")
    edgetune("triton-repo", backbone, "--out", tmp_path / "models", "--backend", "python")
    config = parsed(tmp_path / "models" / "tiny" / "config.pbtxt")
    ours = ServedModel(Backbone.open(backbone, 1), "tiny", 16).metadata()
    proto = type(config).DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    for entries, tensors in ((config.input, ours["inputs"]), (config.output, ours["outputs"])):
        assert [
            {
                "name": one.name,
                "datatype": proto[one.data_type].name[5:].replace("STRING", "BYTES"),
                "shape": list(one.dims),
            }
            for one in entries
        ] == tensors
    assert len(config.output) == 13 and config.max_batch_size == 0
    assert not published(config)["as_computed"]


def test_repositories_are_added_to_and_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    backbone = write_backbone(tmp_path / "backbone")
    models = tmp_path / "models"
    write = ("triton-repo", backbone, "--out", models)
    assert json.loads(edgetune(*write, "--json").stdout)["model"] == "tiny"
    first = contents(models)
    assert "exists already" in edgetune(*write, "--backend", "python").error
    assert edgetune(*write, "--name", "second", "--backend", "python").exit_code == 0
    assert first.items() < contents(models).items()
    assert edgetune(*write, "--backend", "python", "--force").exit_code == 0
    assert not (models / "tiny/1/model.onnx").exists() and (models / "tiny/1/model.py").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backbone", "models"]
    (models / "other").mkdir()
    (models / "other" / "config.pbtxt").write_text('name: "other"')
    refused = edgetune(*write, "--name", "other", "--force").error
    assert "did not write it" in refused and (models / "other" / "config.pbtxt").exists()
    for name in ("", "..", "a/b", "-x/", "ä", "x" * 101):
        if name:
            assert "cannot be a model's name" in edgetune(*write, f"--name={name}").error
    (backbone / "backbone.onnx").write_bytes(b"x" * (backbone / "backbone.onnx").stat().st_size)
    assert "sha256" in edgetune(*write, "--name", "third").error
    assert not (models / "third").exists()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("triton") / "backbone", divide=True)


@pytest.fixture(scope="module")
def server(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A real Triton with the tiny backbone."""
    found = triton.find()
    if found is None:
        pytest.skip(triton.WHY_NOT)
    work = tmp_path_factory.mktemp("server")
    outcome = edgetune(
        "triton-repo", backbone, "--out", work / "models", "--backend", "python", "--max-batch", 4
    )
    assert outcome.exit_code == 0, outcome
    with triton.in_process(found, work / "models", work) as running:
        yield running


@pytest.mark.slow
def test_triton_gives_the_features_of_the_backbone(backbone: Path, server: Running) -> None:
    client_of = pytest.importorskip("tritonclient.http")
    from PIL import Image

    from edge_runtime.preprocess import decode_image

    local = Backbone.open(backbone, 1)
    images = np.random.default_rng(3).integers(1, 256, (3, 8, 8, 3), np.uint8)
    client = client_of.InferenceServerClient(f"127.0.0.1:{server.port}")
    pixels = client_of.InferInput("images", list(images.shape), "UINT8")
    pixels.set_data_from_numpy(images)
    answer = client.infer("tiny", [pixels])  # no outputs named: Triton asks for all
    features = local.run(images)
    for codec in (CODECS["float32"], CODECS["float16"], CODECS["int8"], CODECS["int4"]):
        stored, scale = encode(codec, pooled(codec, features, local.prefix_tokens))
        name = "features" if codec.name == "float32" else f"features_{codec.name}"
        assert np.array_equal(answer.as_numpy(name), stored), codec.name
        if scale is not None:
            assert np.array_equal(answer.as_numpy(f"scale_{codec.name}"), scale)
    data = io.BytesIO()
    Image.fromarray(images[0]).resize((19, 9)).save(data, "PNG")
    files = client_of.InferInput("files", [1], "BYTES")
    files.set_data_from_numpy(np.array([data.getvalue()], dtype=object))
    asked = [client_of.InferRequestedOutput("features")]
    got = client.infer("tiny", [files], outputs=asked).as_numpy("features")
    decoded = decode_image(io.BytesIO(data.getvalue()), local.preprocessing, ("PNG",))
    assert np.array_equal(got, local.run(decoded[None]))
    with pytest.raises(client_of.InferenceServerException, match="expected one input"):
        client.infer("tiny", [pixels, files], outputs=asked)
    files.set_data_from_numpy(np.array([b"no image"], dtype=object))
    with pytest.raises(client_of.InferenceServerException, match="image 0: "):
        client.infer("tiny", [files], outputs=asked)
    client.close()


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["float32", "float16", "int8", "int4"])
def test_extract_through_triton_is_extract_here(
    codec: str, backbone: Path, server: Running, tmp_path: Path
) -> None:
    names = [f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(4)] + ["test/cat/9.png"]
    photos = write_images(tmp_path / "photos", names)
    (photos / "train/cat/3.png").write_text("no image")
    options = ("--codec", codec, "--batch-size", 3)
    here = edgetune("extract", photos, "--backbone", backbone, "--out", tmp_path / "a", *options)
    there = edgetune("extract", photos, "--server", server.url, "--out", tmp_path / "b", *options)
    assert (here.exit_code, there.exit_code) == (0, 0), there
    ours, tritons = contents(tmp_path / "a"), contents(tmp_path / "b")
    manifests = [json.loads(files.pop("manifest.json")) for files in (ours, tritons)]
    assert ours == tritons
    assert manifests[0]["identity"] == manifests[1]["identity"]
    refused = edgetune(
        "extract", photos, "--server", server.url, "--out", tmp_path / "c", "--batch-size", 5
    )
    assert "use --batch-size 4 or less" in refused.error


@pytest.mark.slow
def test_predict_through_triton(backbone: Path, server: Running, tmp_path: Path) -> None:
    config = config_of(tokens=12, embed_dim=16, classes=2)
    parameters, reference = random_parameters(config, np.float32), Backbone.open(backbone).reference
    adaptor = tmp_path / "adaptor"
    Adaptor(config, parameters, ["ant", "bee"], reference, {"codec": "int8"}).save(adaptor)
    write_image(tmp_path / "small.png", 1, (8, 8))
    write_image(tmp_path / "large.png", 2, (100, 100))
    (tmp_path / "cut.png").write_bytes((tmp_path / "small.png").read_bytes()[:60])
    images = [tmp_path / f"{name}.png" for name in ("small", "large")]
    options = ("--adaptor", adaptor, "--json")
    here = json.loads(edgetune("predict", *images, *options, "--backbone", backbone).stdout)
    there = json.loads(edgetune("predict", *images, *options, "--server", server.url).stdout)
    for ours, tritons in zip(here["predictions"], there["predictions"]):
        for one, other in zip(ours["top"], tritons["top"]):
            assert one["class"] == other["class"]
            assert one["probability"] == pytest.approx(other["probability"], abs=0.02)
    outcome = edgetune(
        "predict", tmp_path / "cut.png", images[0], "--adaptor", adaptor, "--server", server.url
    )
    assert outcome.exit_code == 1 and outcome.stdout.startswith(str(images[0]))
    assert f"Error: {tmp_path / 'cut.png'}: " in outcome.stderr


# What Triton's onnxruntime backend does with a graph, for a Triton that has the Python one alone.
STAND_IN = """
import onnxruntime
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        path = f"{args['model_repository']}/{args['model_version']}/model.onnx"
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        images = triton.get_input_tensor_by_name(request, "images").as_numpy()
        (features,) = self.session.run(["features"], {"images": images})
        return triton.InferenceResponse([triton.Tensor("features", features)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_device_uses_the_onnxruntime_model_of_a_real_triton(dtype: str, tmp_path: Path) -> None:
    """Triton reads our configuration and checks requests against it; a stand-in computes."""
    found = triton.find()
    if found is None:
        pytest.skip(triton.WHY_NOT)
    backbone = write_backbone(tmp_path / "backbone", dtype, 2.0 if dtype == "float16" else 1.0)
    edgetune("triton-repo", backbone, "--out", tmp_path / "models")
    model = tmp_path / "models" / "tiny"
    text = (model / "config.pbtxt").read_text()
    (model / "config.pbtxt").write_text(text.replace(': "onnxruntime"', ': "python"', 1))
    (model / "1" / "model.py").write_text(STAND_IN)
    photos = write_images(tmp_path / "photos", [f"{c}/{i}.png" for c in "ab" for i in range(5)])
    with triton.in_process(found, tmp_path / "models", tmp_path) as server:
        for codec in ("float32", "int8"):
            options = ("--codec", codec, "--batch-size", 4)
            ours, theirs = tmp_path / f"{codec}-a", tmp_path / f"{codec}-b"
            here = edgetune("extract", photos, "--backbone", backbone, "--out", ours, *options)
            there = edgetune("extract", photos, "--server", server.url, "--out", theirs, *options)
            assert (here.exit_code, there.exit_code) == (0, 0), there
            shard = "train-00000.safetensors"
            assert (ours / shard).read_bytes() == (theirs / shard).read_bytes()
