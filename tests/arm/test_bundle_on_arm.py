"""A bundle, made and installed as a user would, trains and predicts on ARM as on this machine.

The processors are emulated by qemu-user in roots that are unpacked from Debian's packages. Needs
root, a network, apt, qemu-user-static and binfmt_misc; what is missing is the reason to skip.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.export.adaptor_graphs import need
from tests.feature_folders import write_features

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
BINFMT = Path("/proc/sys/fs/binfmt_misc")
TRAIN = ("--epochs", "5", "--batch-size", "12", "--json")


@dataclass(frozen=True)
class Board:
    """A kind of board: Debian's name for it, qemu's, and the packages of a bare system."""

    debian: str
    qemu: str
    cpu: str
    packages: tuple[str, ...]
    runtimes: tuple[str, ...]


# The wheels of numpy and tflite-runtime want libstdc++, which every Debian that has apt has.
BOARDS = {
    "aarch64": Board(
        "arm64", "aarch64", "cortex-a72", ("python3", "libstdc++6"), ("ort", "tflite")
    ),
    "armv7l": Board("armhf", "arm", "max", ("python3", "python3-numpy", "libstdc++6"), ("tflite",)),
}


@pytest.fixture(scope="module", params=BOARDS)
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """A target whose programs this kernel runs while the tests last."""
    name = str(request.param)
    qemu = BOARDS[name].qemu
    rule = Path(f"/usr/lib/binfmt.d/qemu-{qemu}.conf")
    for missing in (
        os.geteuid() != 0 and "root",
        platform.machine() in (name, "aarch64") and "a processor other than ARM",
        not shutil.which("apt-get") and "apt-get",
        not rule.is_file() and "qemu-user-static (sudo apt-get install qemu-user-static)",
    ):
        if missing:
            pytest.skip(f"bundles on {name} were NOT tried: needs {missing}")
    mounted = (BINFMT / "register").exists()
    known = (BINFMT / f"qemu-{qemu}").exists()
    try:
        if not mounted:
            subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True)
        if not known:
            (BINFMT / "register").write_text(rule.read_text())
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"bundles on {name} were NOT tried: no binfmt_misc here ({error})")
    yield name
    if not known:
        (BINFMT / f"qemu-{qemu}").write_text("-1")
    if not mounted:
        subprocess.run(["umount", str(BINFMT)], check=True)


def here(*arguments: object) -> str:
    """Runs edgetune on this machine."""
    command = [sys.executable, "-m", "edge_runtime.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def inside(root: Path, target: str, *command: str) -> Any:
    """Runs a program in a root, with /proc, which goes with the program."""
    script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(root), *command],
        env={
            "PATH": path,
            "HOME": "/root",
            "QEMU_CPU": BOARDS[target].cpu,
        },
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.fixture(scope="module")
def root(target: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the bundle installed, and graphs of its adaptor in /root."""
    for kind in ("onnx", "tflite"):
        need(kind)
    board, folder = BOARDS[target], tmp_path_factory.mktemp(target)
    made = folder / "root"
    command = [str(HERE / "make_root.sh"), board.debian, str(made), "dash", "coreutils"]
    done = subprocess.run([*command, *board.packages], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"bundles on {target} were NOT tried: no Debian root ({done.stderr[-200:]})")
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
    return made


def edgetune(root: Path, target: str, *arguments: str) -> str:
    done = inside(root, target, "/opt/edgetune/bin/edgetune", *arguments)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_training_gives_the_losses_of_this_machine(target: str, root: Path, tmp_path: Path) -> None:
    features = "/opt/edgetune/features"
    there = json.loads(edgetune(root, target, "train", features, "--out", "/root/a", *TRAIN))
    ours = json.loads(here("train", f"{root}{features}", "--out", tmp_path / "a", *TRAIN))
    assert there["steps"] == ours["steps"] == 20
    losses = [[epoch["train_loss"] for epoch in run["history"]] for run in (there, ours)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_every_runtime_predicts_what_numpy_does_here(target: str, root: Path) -> None:
    graphs = {"ort": "/root/adaptor.onnx", "tflite": "/root/adaptor.tflite"}
    arguments = ("predict", "--features", "/opt/edgetune/features", "--json", "--adaptor")
    carried = "/opt/edgetune/adaptor.safetensors"
    local = [*arguments[:2], f"{root}/opt/edgetune/features", *arguments[3:], f"{root}{carried}"]
    expected = json.loads(here(*local))["predictions"]
    assert len(expected) == 30
    for adaptor in (carried, *(graphs[runtime] for runtime in BOARDS[target].runtimes)):
        found = json.loads(edgetune(root, target, *arguments, adaptor))["predictions"]
        tolerance = 1e-5 if adaptor == carried else 0.02  # the graphs' weights are int8
        for one, other in zip(found, expected):
            top = {best["class"]: best["probability"] for best in one["top"]}
            for best in other["top"]:
                assert top[best["class"]] == pytest.approx(best["probability"], abs=tolerance)


def test_the_plan_and_the_files_are_those_of_this_machine(target: str, root: Path) -> None:
    features = "/opt/edgetune/features"
    intact = json.loads(edgetune(root, target, "inspect", features, "--verify", "--json"))
    assert intact["intact"] is True
    there, ours = (
        json.loads(plan)
        for plan in (
            edgetune(root, target, "plan", features, "--json"),
            here("plan", f"{root}{features}", "--json"),
        )
    )
    assert there["arena_bytes"] == ours["arena_bytes"] > 0
