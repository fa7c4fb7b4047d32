"""Weights come from a file, timm's local-dir form or the hub, or the command says why not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edge_runtime.errors import ExportError
from export import hub, models, preprocessing
from export.models import load_model


def local_dir(folder: Path, weights: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights.read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_random_weights_are_seeded() -> None:
    first, second = (load_model("test_vit", random_weights=True) for _ in range(2))
    assert first.source == "random"
    assert first.checkpoint_sha256 is None
    for a, b in zip(first.model.parameters(), second.model.parameters()):
        assert torch.equal(a, b)
        assert not a.requires_grad


@pytest.mark.parametrize("head", ["as it is", "other classes", "none"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_checkpoint_file(checkpoint: Path, tmp_path: Path, head: str, suffix: str) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(str(checkpoint))
    if head != "as it is":
        weight = state.pop("head.weight")
        del state["head.bias"]
        if head == "other classes":
            state["head.weight"], state["head.bias"] = weight[:7].clone(), torch.zeros(7)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        save_file(state, str(path))
    loaded = load_model("test_vit", path)
    assert (loaded.source, loaded.name) == ("checkpoint", "test_vit")
    assert loaded.checkpoint_sha256
    assert torch.equal(loaded.model.get_parameter("cls_token"), state["cls_token"])


def test_checkpoint_at_another_size(checkpoint: Path) -> None:
    loaded = load_model("test_vit", checkpoint, image_size=64)
    assert loaded.size == 64
    assert loaded.model.get_parameter("pos_embed").shape == (1, 17, 64)


def test_local_dir_brings_its_configuration(checkpoint: Path, tmp_path: Path) -> None:
    config = {
        "tag": "mine",
        "input_size": [3, 160, 160],
        "interpolation": "bilinear",
        "crop_pct": 0.9,
        "crop_mode": "squash",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "fixed_input_size": True,
    }
    folder = local_dir(
        tmp_path / "saved", checkpoint, architecture="test_vit", pretrained_cfg=config
    )
    loaded = load_model("test_vit", folder)
    assert loaded.name == "test_vit.mine"
    assert preprocessing.resolve(loaded.model, loaded.size).to_json() == {
        "size": 160,
        "resize": 177,
        "crop_mode": "squash",
        "interpolation": "bilinear",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    }


@pytest.mark.parametrize("name", ["test_vit2", "test_vit.theirs"])
def test_local_dir_of_another_model(checkpoint: Path, tmp_path: Path, name: str) -> None:
    folder = local_dir(
        tmp_path / "saved", checkpoint, architecture="test_vit", pretrained_cfg={"tag": "mine"}
    )
    with pytest.raises(ExportError, match=f"holds a test_vit.mine, not a {name}; give MODEL as"):
        load_model(name, folder)


def test_preprocessing_of_a_tag() -> None:
    """AugReg ViTs want 0.5, not ImageNet's mean: it comes with the weights."""
    loaded = load_model("vit_tiny_patch16_224.augreg_in21k_ft_in1k", random_weights=True)
    assert preprocessing.resolve(loaded.model, 224).mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch16_24", "near: vit_tiny_patch16_224"),
        ("test_vit.nothing", r"near: test_vit\."),
        ("owner/model", "knows no model 'owner/model'"),
        ("", "knows no model ''"),
    ],
)
def test_unknown_name(name: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        load_model(name)


def test_weights_of_another_architecture(checkpoint: Path) -> None:
    with pytest.raises(ExportError, match="does not fit test_vit3: pos_embed is") as caught:
        load_model("test_vit3", checkpoint)
    assert r"[64, 3, 16, 16] in the file, [96, 3, 16, 16] in the model" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ExportError, match="conv1.* not in the file; .* unknown to the"):
        load_model("resnet10t", checkpoint)


class Trap:
    """Pickles to a call, as a hostile checkpoint would."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("touched"),))


def test_unreadable_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "text.pth").write_text("no tensors")
    (tmp_path / "weights.npz").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "headless").mkdir()
    (tmp_path / "headless" / "model.safetensors").touch()
    for name, message in (
        ("trap.pth", "holds pickled Python objects besides tensors"),
        ("cut.safetensors", "cannot be read as a state dict"),
        ("text.pth", "cannot be read as a state dict"),
        ("weights.npz", "is no .safetensors"),
        ("empty", "holds no weights"),
        ("headless", "has no config.json"),
        ("nothing.pth", "does not exist"),
    ):
        with pytest.raises(ExportError, match=message) as caught:
            load_model("test_vit", tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "touched").exists()


def test_damaged_config(checkpoint: Path, tmp_path: Path) -> None:
    folder = local_dir(tmp_path / "saved", checkpoint)
    with pytest.raises(ExportError, match="names no `architecture`"):
        load_model("test_vit", folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ExportError, match="is damaged"):
        load_model("test_vit", folder)


def test_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "reachable", lambda url: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(ExportError, match="cannot be reached; give --checkpoint .* or --random-"):
        load_model("test_vit")
    assert time.monotonic() - start < 10
    assert not constants.HF_HUB_OFFLINE


def test_reachable_says_no() -> None:
    assert not hub.reachable("http://127.0.0.1:9")
    assert not hub.reachable("file:///etc/hostname")


def test_name_without_weights() -> None:
    with pytest.raises(ExportError, match="no pretrained weights for coatnet_0_224"):
        load_model("coatnet_0_224")


def test_input_must_be_square_rgb(create: Callable[..., Any]) -> None:
    model: nn.Module = create("test_vit")
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 128, 256)}
    with pytest.raises(ExportError, match="wants images of 3 x 128 x 256"):
        models._input_size("wide", model, None)
    assert models._input_size("wide", model, 64) == 64


@pytest.mark.parametrize(("key", "value"), [("crop_mode", "border"), ("interpolation", "random")])
def test_transforms_no_device_does(create: Callable[..., Any], key: str, value: str) -> None:
    model = create("test_vit")
    model.pretrained_cfg = {**model.pretrained_cfg, key: value}
    with pytest.raises(ExportError, match=f"want .* '{value}'; supported are"):
        preprocessing.resolve(model, 160)
