"""ARM on this machine: roots of Debian's packages, whose programs qemu-user runs.

Needs root, a network, apt, qemu-user-static and binfmt_misc; what is missing is the reason to skip.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
BINFMT = Path("/proc/sys/fs/binfmt_misc")


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


def not_tried(what: str, why: object) -> None:
    """Skips the test, loudly: -rs prints the reason."""
    pytest.skip(f"{what} was NOT tried: {why}")


@contextmanager
def emulated(name: str) -> Iterator[None]:
    """Has this kernel run the programs of a target while the block lasts, or skips the test."""
    qemu = BOARDS[name].qemu
    rule = Path(f"/usr/lib/binfmt.d/qemu-{qemu}.conf")
    for missing in (
        os.geteuid() != 0 and "root",
        platform.machine() in (name, "aarch64") and "a processor other than ARM",
        not shutil.which("apt-get") and "apt-get",
        not rule.is_file() and "qemu-user-static (sudo apt-get install qemu-user-static)",
    ):
        if missing:
            not_tried(name, f"needs {missing}")
    mounted = (BINFMT / "register").exists()
    known = (BINFMT / f"qemu-{qemu}").exists()
    try:
        if not mounted:
            subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True)
        if not known:
            (BINFMT / "register").write_text(rule.read_text())
    except (OSError, subprocess.CalledProcessError) as error:
        not_tried(name, f"no binfmt_misc here ({error})")
    try:
        yield
    finally:
        if not known:
            (BINFMT / f"qemu-{qemu}").write_text("-1")
        if not mounted:
            subprocess.run(["umount", str(BINFMT)], check=True)


def here(*arguments: object) -> str:
    """Runs edgetune on this machine; what it printed."""
    command = [sys.executable, "-m", "edge_runtime.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_root(folder: Path, target: str, *packages: str) -> None:
    """Unpacks a Debian root into a folder, or skips the test."""
    script, debian = HERE / "make_root.sh", BOARDS[target].debian
    command = [str(script), debian, str(folder), "dash", "coreutils", *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        not_tried(target, f"no Debian root ({done.stderr[-200:]})")


def start(root: Path, target: str, *command: str) -> subprocess.Popen[str]:
    """Starts a program in a root, with /proc, which goes with the program."""
    script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    return subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, str(root), *command],
        env={"PATH": path, "HOME": "/root", "QEMU_CPU": BOARDS[target].cpu},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def inside(root: Path, target: str, *command: str) -> Any:
    """Runs a program in a root to its end."""
    with start(root, target, *command) as process:
        try:
            stdout, stderr = process.communicate(timeout=900)
        finally:
            process.kill()
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
