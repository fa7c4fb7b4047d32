"""Bundles: the same bytes each time, all that a board needs, and nothing that does not fit it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.adaptor import Adaptor
from edge_runtime.errors import ExportError
from edge_runtime.features import FeatureFolder
from export import bundle as bundling
from export import wheels
from export.wheels import TARGETS, fetch, glibc_of, own_wheel
from tests.command_line import edgetune
from tests.feature_folders import alter_manifest, write_features
from tests.problems import config_of, random_parameters


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    """(an adaptor file, a feature folder of its backbone)."""
    features = write_features(tmp_path / "features").path
    folder = FeatureFolder.open(features)
    config = config_of(tokens=5, embed_dim=8, classes=3)
    parameters = random_parameters(config, np.float32)
    Adaptor(config, parameters, folder.classes, folder.backbone).save(tmp_path / "adaptor")
    return tmp_path / "adaptor", features


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels come from here: one of pure Python, and one a Python version."""

    def fake(target: Any, python: str, extras: Sequence[str], constraint: Any, to: Path) -> None:
        to.mkdir(parents=True)
        for name in ("some-1-py3-none-any.whl", f"fast-2-cp{python}-manylinux_2_28_aarch64.whl"):
            (to / name).write_text(name)

    monkeypatch.setattr(bundling, "fetch", fake)


def unpacked(path: Path) -> dict[str, bytes]:
    """Files of an archive by name; checks what must be the same for all."""
    files = {}
    with tarfile.open(path) as archive:
        for entry in archive:
            assert (entry.mtime, entry.uid, entry.gid, entry.uname) == (0, 0, 0, "")
            top, _, name = entry.name.partition("/")
            content = archive.extractfile(entry)
            assert top == "edgetune-bundle" and content is not None
            assert bool(entry.mode & 0o100) == name.endswith(".sh")
            files[name] = content.read()
    return files


def test_the_archive_holds_what_its_manifest_says(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    adaptor, features = inputs
    arguments = ("bundle", "--target", "aarch64", "--python", "3.13", "--python", "3.11")
    carried = ("--adaptor", adaptor, "--features", features)
    outcome = edgetune(*arguments, *carried, "--out", tmp_path / "one.tar.gz", "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert edgetune(*arguments, *carried, "--out", tmp_path / "two.tar.gz").exit_code == 0
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()

    files = unpacked(tmp_path / "one.tar.gz")
    listed = json.loads(outcome.stdout)
    assert listed["bytes"] == (tmp_path / "one.tar.gz").stat().st_size
    assert listed["files"] == {name: len(data) for name, data in files.items()}
    manifest = json.loads(files.pop("manifest.json"))
    assert manifest["files"] == {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    assert files["adaptor.safetensors"] == adaptor.read_bytes()
    assert {n for n in files if n.startswith("features/")} == {
        f"features/{name}" for name in os.listdir(features)
    }
    own, _ = own_wheel()
    assert manifest["pythons"] == {
        python: [own, f"fast-2-cp{python}-manylinux_2_28_aarch64.whl", "some-1-py3-none-any.whl"]
        for python in ("3.11", "3.13")
    }
    assert (manifest["target"], manifest["glibc"], manifest["from_board"]) == (
        "aarch64",
        [2, 28],
        {},
    )


def test_a_dry_run_lists_and_writes_nothing(tmp_path: Path) -> None:
    outcome = edgetune(
        "bundle", "--target", "armv7l", "--with", "vision,tflite", "--dry-run", "--json"
    )
    assert outcome.exit_code == 0
    content = json.loads(outcome.stdout)
    assert content["out"] is None and "install.py" in content["files"]
    out = tmp_path / "b.tar.gz"
    lines = edgetune("bundle", "--target", "armv7l", "--dry-run", "--out", out).stdout.splitlines()
    assert lines[-1].startswith("not written; ") and any("manifest.json" in line for line in lines)
    assert not list(tmp_path.iterdir())


def test_what_pypi_lacks_comes_from_the_board(tmp_path: Path) -> None:
    out = tmp_path / "b.tar.gz"
    assert edgetune("bundle", "--target", "armv7l", "--with", "vision", "--out", out).exit_code == 0
    manifest = json.loads(unpacked(out)["manifest.json"])
    assert manifest["from_board"] == {"numpy": "python3-numpy", "PIL": "python3-pil"}
    line = edgetune("bundle", "--target", "armv7l", "--with", "ort", "--dry-run").error
    assert "no wheels for --with ort on armv7l; leave it out" in line


def test_refusals(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    adaptor, features = inputs
    out = tmp_path / "b.tar.gz"
    common = ("bundle", "--target", "aarch64", "--out", out)
    assert "not a safetensors file" in edgetune(*common, "--adaptor", __file__).error
    assert "is not a feature folder" in edgetune(*common, "--features", tmp_path).error
    alter_manifest(features, lambda m: m["backbone"].update(identity="0" * 64, k=7))
    line = edgetune(*common, "--adaptor", adaptor, "--features", features).error
    assert "they differ in k" in line
    assert not out.exists()
    out.touch()
    assert "exists already" in edgetune(*common).error
    for arguments in (("--with", "cuda"), ("--python", "2.7"), ("--target", "mips")):
        assert edgetune(*common, *arguments).exit_code == 2
    assert edgetune("bundle", "--target", "aarch64").exit_code == 2


def test_our_wheel_is_a_wheel() -> None:
    name, data = own_wheel()
    assert (name, data) == own_wheel()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    about = name.replace("-py3-none-any.whl", ".dist-info")
    for part in ("edge_runtime/cli/predict.py", "trainer_lite/golden.json", "export/cli.py"):
        assert part in files
    assert not [entry for entry in files if entry.endswith(".pyc") or entry.startswith("tests")]
    for path, digest, size in csv.reader(io.StringIO(files[f"{about}/RECORD"].decode())):
        if path != f"{about}/RECORD":
            found = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).decode()
            assert (digest, int(size)) == (f"sha256={found.rstrip('=')}", len(files[path]))
    assert b"edgetune = edge_runtime.cli:main" in files[f"{about}/entry_points.txt"]


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        (["a-1-py3-none-any.whl"], (0, 0)),
        (["n-2-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl"], (2, 27)),
        (["n-1-cp39-cp39-manylinux_2_17_x.manylinux2014_x.whl", "a-py3-none-any.whl"], (2, 17)),
        (["a-1-cp310-abi3-manylinux2014_x.whl", "b-1-cp311-cp311-manylinux_2_34_x.whl"], (2, 34)),
    ],
)
def test_the_c_library_that_wheels_need(names: list[str], needed: tuple[int, int]) -> None:
    assert glibc_of(names) == needed


@pytest.mark.parametrize("target", TARGETS)
def test_pip_is_asked_for_wheels_of_the_board(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        asked.append(command)
        return subprocess.CompletedProcess(command, len(asked) - 1, "", "x\nERROR: none of that\n")

    monkeypatch.setattr(wheels.subprocess, "run", run)
    fetch(TARGETS[target], "3.11", ["vision"], tmp_path / "c.txt", tmp_path)
    command = asked[0]
    assert {"--only-binary=:all:", "--platform", f"manylinux2014_{target}", "3.11"} <= set(command)
    assert command[command.index("--constraint") + 1] == str(tmp_path / "c.txt")
    from_system = target == "armv7l"  # numpy and Pillow are
    assert ("Pillow>=9.4" not in command) == from_system == ("--no-deps" in command)
    with pytest.raises(ExportError, match="no wheels for Python 3.9: none of that"):
        fetch(TARGETS[target], "3.9", [], None, tmp_path)
