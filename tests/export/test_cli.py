"""The command: one line for what is wrong, nothing left behind, one JSON object where asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_runtime import formats
from edge_runtime.errors import ExportError
from export import backbone
from tests.command_line import edgetune
from tests.export.conftest import MODEL

RANDOM = "--random-weights"


def test_export_as_json(tmp_path: Path, checkpoint: Path) -> None:
    out = tmp_path / "new" / "backbone"
    options = ("--checkpoint", checkpoint, "--k", 1, "--dtype", "float16", "--image-size", 64)
    done = edgetune("export", MODEL, "--out", out, *options, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["backbone_bytes"] == (out / "backbone.onnx").stat().st_size
    assert (result["tokens"], result["embed_dim"], result["k"]) == (17, 64, 1)
    assert result["output"] == {"dtype": "float16", "scale": 1.0}
    (line,) = done.stderr.splitlines()
    assert "test_vit: sum of z_0 and 1 block, 17 tokens x 64, float16" in line
    assert [path.name for path in out.parent.iterdir()] == ["backbone"]

    error = edgetune("export", MODEL, "--out", out, *options).error
    assert "exists already; choose another name or pass --force" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit_tiny_patch16_24", RANDOM], "timm knows no model 'vit_tiny_patch16_24'; near: vit_"),
        (
            ["resnet10t", RANDOM],
            "input of layer4.0 is [256, 11, 11] but output of layer4.0 is [512",
        ),
        ([MODEL, RANDOM, "--k", "7"], "--k 7 is out of range: the model of test_vit has 6 blocks"),
        ([MODEL, RANDOM, "--k", "0"], "give 1 to 6"),
        (["test_convnext", RANDOM, "--k", "3"], "the last stage (stages.3) of test_convnext has 2"),
        ([MODEL, "--checkpoint", "missing.pth"], "missing.pth does not exist"),
        ([MODEL, RANDOM, "--checkpoint", "x.pth"], "exclude each other"),
        ([MODEL, RANDOM, "--image-size", "3"], "test_vit cannot be"),
    ],
)
def test_refusals(tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in edgetune("export", *arguments, "--out", tmp_path / "backbone").error
    assert not list(tmp_path.iterdir())


def test_wrong_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    out = tmp_path / "backbone"
    error = edgetune("export", "test_vit3", "--checkpoint", checkpoint, "--out", out).error
    assert "does not fit test_vit3: pos_embed is [1, 101, 64] in the file, [1, 101, 96]" in error


def test_usage() -> None:
    assert edgetune("export", MODEL).exit_code == 2
    assert edgetune("export", MODEL, "--out", "x", "--dtype", "int8").exit_code == 2
    assert "edgetune export vit_tiny_patch16_224" in edgetune("export", "--help").stdout


def test_force_never_replaces_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "kept").touch()
    result = edgetune("export", MODEL, RANDOM, "--out", tmp_path / "photos", "--force")
    assert "is not a backbone folder; --force replaces only those" in result.error
    assert (tmp_path / "photos" / "kept").exists()


def test_failure_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ExportError("not faithful")

    monkeypatch.setattr(backbone, "export_graph", fail)
    out = tmp_path / "backbone"
    out.mkdir()
    formats.write_json(out / "manifest.json", {"format": formats.BACKBONE, "version": 1})
    (out / "kept").touch()
    assert "not faithful" in edgetune("export", MODEL, RANDOM, "--out", out, "--force").error
    assert [path.name for path in tmp_path.iterdir()] == ["backbone"]
    assert (out / "kept").exists()
