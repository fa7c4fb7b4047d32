"""`edgetune extract` as it is typed: output, exit status, messages in one line."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge_runtime.backbone import Backbone
from edge_runtime.cli import main
from tests.edge_runtime.tiny_backbone import contents, write_backbone, write_images

NAMES = ["train/a/1.png", "train/a/2.png", "train/b/3.png", "test/a/4.png"]


def edgetune(*arguments: object) -> Result:
    separate: dict[str, Any] = {"mix_stderr": False} if click_version() < (8, 2) else {}
    return CliRunner(**separate).invoke(main, ["extract", *map(str, arguments)])


def click_version() -> tuple[int, ...]:
    return tuple(int(part) for part in version("click").split(".")[:2])


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    """(image folder, backbone folder)."""
    for module in ("onnx", "onnxruntime", "PIL"):
        pytest.importorskip(module)
    return write_images(tmp_path / "photos", NAMES), write_backbone(tmp_path / "backbone")


def test_help_has_an_example_and_needs_nothing_installed() -> None:
    result = edgetune("--help")
    assert result.exit_code == 0
    assert "edgetune extract photos --backbone backbone --out features" in result.stdout
    for option in ("--codec", "--batch-size", "--threads", "--strict", "--force", "--json"):
        assert option in result.stdout


def test_one_line_tells_what_was_made(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    images, backbone = inputs
    (images / "train/a/notes.txt").write_text("x")
    (images / "train/a/2.png").write_bytes(b"")
    result = edgetune(images, "--backbone", backbone, "--out", tmp_path / "out", "--threads", 1)
    assert result.exit_code == 0, result.output
    assert result.stderr == "skipped train/a/2.png: not an image that Pillow can read\n"
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"{tmp_path / 'out'}: 3 images of 2 classes (train 2, test 1), ")
    assert "388 bytes an image" in line and "images/s" in line
    assert line.endswith("1 unreadable images skipped, 1 other files ignored")
    assert "train-00000.safetensors" in contents(tmp_path / "out")


def test_json_is_the_only_thing_on_stdout(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    images, backbone = inputs
    (images / "train/a/2.png").write_bytes(b"")
    result = edgetune(
        images, "--backbone", backbone, "--out", tmp_path / "out", "--codec", "int8", "--json"
    )
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["seconds"] > 0 and content["images_per_second"] > 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    expected = {
        "images": 3,
        "skipped": 1,
        "splits": {"train": 2, "test": 1},
        "bytes_per_image": 12 * 16 + 4 * 12,
        "codec": "int8",
        "identity": manifest["identity"],
    }
    assert {key: content[key] for key in expected} == expected


def test_strict_stops(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    images, backbone = inputs
    (images / "test/a/4.png").write_bytes(b"")
    arguments = (images, "--backbone", backbone, "--out", tmp_path / "out")
    result = edgetune(*arguments, "--strict")
    assert result.exit_code == 1
    assert "4.png: not an image that Pillow can read; repair or remove it" in result.stderr
    assert not (tmp_path / "out").exists()


def test_ctrl_c_tells_how_to_go_on(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, backbone = inputs
    arguments = (images, "--backbone", backbone, "--out", tmp_path / "out")

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "run", stop)
        result = edgetune(*arguments)
    assert result.exit_code == 130
    assert "out.partial keeps the finished shards; the same command goes on" in result.stderr
    assert edgetune(*arguments).exit_code == 0


def test_what_is_wrong_is_said_in_one_line(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    images, backbone = inputs
    out = tmp_path / "out"
    cases: list[tuple[tuple[object, ...], str]] = [
        ((tmp_path / "nowhere", "--backbone", backbone, "--out", out), "nowhere does not exist"),
        ((images / "train/a", "--backbone", backbone, "--out", out), "lies in no class folder"),
        ((images, "--backbone", images, "--out", out), "is not a backbone folder"),
        ((images, "--backbone", backbone, "--out", images / "out"), "lies inside the images"),
        ((images, "--backbone", backbone, "--out", backbone, "--force"), "not a feature folder"),
        ((images, "--backbone", backbone, "--out", backbone), "exists already"),
    ]
    for arguments, message in cases:
        result = edgetune(*arguments)
        assert (result.exit_code, result.stdout) == (1, ""), message
        (line,) = result.stderr.splitlines()
        assert message in line
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("photos", "--out", "out"),
        ("photos", "--backbone", "b"),
        ("photos", "--backbone", "b", "--out", "o", "--codec", "int3"),
        ("photos", "--backbone", "b", "--out", "o", "--batch-size", "0"),
        ("photos", "--backbone", "b", "--out", "o", "--threads", "0"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    assert edgetune(*arguments).exit_code == 2
