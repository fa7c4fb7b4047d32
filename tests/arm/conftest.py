"""Targets that are emulated, and a root of each with a bundle installed."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.arm.emulation import BOARDS, emulated, here, inside, make_root
from tests.export.adaptor_graphs import need
from tests.feature_folders import write_features

TRAIN = ("--epochs", "5", "--batch-size", "12", "--json")


@pytest.fixture(scope="session", params=BOARDS)
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """A target whose programs this kernel runs while the tests last."""
    with emulated(str(request.param)):
        yield str(request.param)


@pytest.fixture(scope="session")
def root(target: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the bundle installed, and graphs of its adaptor in /root."""
    for kind in ("onnx", "tflite"):
        need(kind)
    board, folder = BOARDS[target], tmp_path_factory.mktemp(target)
    made = folder / "root"
    make_root(made, target, *board.packages)
    features = folder / "features"
    write_features(
        features,
        rows={"train": 48, "val": 12, "test": 30},
        tokens=50,
        embed_dim=192,
        separation=0.1,
    )
    adaptor = folder / "adaptor.safetensors"
    here("train", features, "--out", adaptor, *TRAIN)
    archive = folder / "bundle.tar.gz"
    carried = ("--features", features, "--adaptor", adaptor, "--out", archive)
    here("bundle", "--target", target, "--with", ",".join(board.runtimes), *carried)
    with tarfile.open(archive) as packed:
        for entry in packed:
            packed.extract(entry, made / "root")
    for kind in ("onnx", "tflite"):
        out = made / "root" / f"adaptor.{kind}"
        here("export-adaptor", adaptor, "--format", kind, "--out", out, "--quantize", "int8")
    installed = inside(made, target, "/root/edgetune-bundle/install.sh", "/opt/edgetune")
    assert installed.returncode == 0, installed.stdout + installed.stderr
    assert f"checks passed on {target}" in installed.stdout
    reference = "reference BLAS" in installed.stdout  # Debian's numpy alone brings it
    assert reference == ("python3-numpy" in board.packages)
    return made
