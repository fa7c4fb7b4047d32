"""What is in the file: the blocks up to k, nothing of this machine, the same bytes every time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edge_runtime import formats
from edge_runtime.errors import ExportError
from export import onnx_export, verify
from export.backbone import build, export_backbone
from export.models import Loaded
from tests.export.conftest import BLOCKS, MODEL
from tests.export.test_taps import MODELS, sized


def weights_in(folder: Path) -> int:
    """Numbers held by the initializers of a backbone folder."""
    graph = onnx.load(str(folder / "backbone.onnx")).graph
    return sum(prod(tensor.dims) for tensor in graph.initializer)


def run(folder: Path, images: torch.Tensor) -> np.ndarray[Any, Any]:
    manifest = formats.read_manifest(folder, formats.BACKBONE)
    data = (folder / manifest["onnx"]["file"]).read_bytes()
    return verify.run_onnx(data, manifest["output"]["scale"], [images])[0]


def test_manifest(whole: Path) -> None:
    manifest = formats.read_manifest(whole, formats.BACKBONE)
    data = (whole / "backbone.onnx").read_bytes()
    assert manifest["onnx"] == {
        "file": "backbone.onnx",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "opset": 18,
    }
    parts = {key: manifest[key] for key in ("k", "preprocessing", "graph_version")}
    parts["weights_sha256"] = manifest["weights"]["sha256"]
    assert manifest["identity"] == formats.identity(parts)
    assert manifest["taps"] == [f"blocks.{index}" for index in range(BLOCKS)]
    assert manifest["output"] == {"dtype": "float32", "scale": 1.0}
    assert (manifest["tokens"], manifest["prefix_tokens"], manifest["embed_dim"]) == (101, 1, 64)
    assert manifest["verified"]["batch_sizes"] == [1, 2, 5]
    for what in ("torch", "forward_intermediates"):
        assert 0 < manifest["verified"][what]["max_relative"] < 1e-4
    assert sorted(os.listdir(whole)) == ["backbone.onnx", "manifest.json"]


def test_nothing_behind_block_k(whole: Path, shorter: Path, create: Callable[..., Any]) -> None:
    model = create(MODEL)
    stem = [model.patch_embed, model.norm_pre]
    expected = sum(p.numel() for part in stem for p in part.parameters())
    expected += model.cls_token.numel() + model.pos_embed.numel()
    block = sum(p.numel() for p in model.blocks[0].parameters())
    for folder, k in ((whole, BLOCKS), (shorter, BLOCKS - 1)):
        # a few scalars and shapes more; what is alike in several blocks (ones, zeros) is held once
        assert 0.95 * (expected + k * block) < weights_in(folder) < expected + k * block + 200
    sizes = [(folder / "backbone.onnx").stat().st_size for folder in (shorter, whole)]
    assert sizes[1] - sizes[0] > 3.9 * block
    names = {tensor.name for tensor in onnx.load(str(shorter / "backbone.onnx")).graph.initializer}
    assert not [n for n in names if "head" in n or "model.norm." in n or f"s.{BLOCKS - 1}." in n]


def test_every_weight_is_read(whole: Path) -> None:
    graph = onnx.load(str(whole / "backbone.onnx")).graph
    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read


def test_same_bytes_again(whole: Path, checkpoint: Path, tmp_path: Path) -> None:
    """From a file or from the seed, in another folder: one identity, one sequence of bytes."""
    again = tmp_path / "again"
    manifest = export_backbone(MODEL, again, checkpoint=checkpoint)
    before = formats.read_manifest(whole, formats.BACKBONE)
    assert (again / "backbone.onnx").read_bytes() == (whole / "backbone.onnx").read_bytes()
    assert manifest["identity"] == before["identity"]
    assert manifest["weights"]["sha256"] == before["weights"]["sha256"]
    assert manifest["weights"]["checkpoint_sha256"] == formats.file_sha256(checkpoint)


def test_nothing_of_this_machine(whole: Path) -> None:
    data = (whole / "backbone.onnx").read_bytes() + (whole / "manifest.json").read_bytes()
    for trace in (b"site-packages", b"pkg.torch", b"stack_trace", os.getcwd().encode()):
        assert trace not in data
    model = onnx.load(str(whole / "backbone.onnx"))
    assert (model.producer_name, model.producer_version) == ("edgetune", "")
    assert not model.metadata_props
    assert not [n for n in model.graph.node if n.doc_string or n.metadata_props]


def test_last_tap_classifies(whole: Path, shorter: Path, create: Callable[..., Any]) -> None:
    """Sum up to k minus sum up to k - 1 is the last block: norm and head make timm's logits."""
    model = create(MODEL)
    images = verify.sample_images(160)[2]
    last = torch.from_numpy(run(whole, images) - run(shorter, images))
    config = model.pretrained_cfg
    mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
    expected = model(((images / 255 - mean) / std).permute(0, 3, 1, 2))
    found = model.forward_head(model.norm(last))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif("EDGETUNE_DATA" not in os.environ, reason="needs the weights of a ViT-Ti")
def test_real_model_classifies(timm: Any, tmp_path: Path) -> None:
    name, source = "vit_tiny_patch16_224", Path(os.environ.get("EDGETUNE_DATA", ""))
    source /= "vit_tiny_patch16_224_in1k"
    if not source.is_dir():
        pytest.skip("EDGETUNE_DATA has no vit_tiny_patch16_224_in1k")
    for k in (11, 12):
        export_backbone(name, tmp_path / str(k), checkpoint=source, k=k)
    model = timm.create_model(f"local-dir:{source}", pretrained=True).eval()
    images = verify.sample_images(224)[2]
    last = torch.from_numpy(run(tmp_path / "12", images) - run(tmp_path / "11", images))
    with torch.inference_mode():
        expected = model(((images / 255 - 0.5) / 0.5).permute(0, 3, 1, 2))
        found = model.forward_head(model.norm(last))
    assert torch.equal(found.argmax(1), expected.argmax(1))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


EXPORTED = ("vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224", "swin_", "convnext_atto")


@pytest.mark.parametrize("case", [c for c in MODELS if c[0].startswith(EXPORTED)], ids=str)
def test_other_architectures(create: Callable[..., Any], tmp_path: Path, case: Any) -> None:
    name, options, size = case[:3]
    model = create(name, **sized(name, options, size))
    manifest = build(Loaded(model, name, "random", None, size), tmp_path, 2, "float32")
    assert manifest["verified"]["forward_intermediates"]["rms_relative"] < 1e-4
    assert manifest["hierarchical"] is case[-1]
    assert len(manifest["taps"]) == 2


def test_files_above_two_gib(create: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "LIMIT_BYTES", 1000)
    with pytest.raises(ExportError, match="files above 2 GiB are not supported yet"):
        onnx_export.check_bytes(create(MODEL))
