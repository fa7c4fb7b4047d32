"""The peers' virtual environments: made when first needed, kept in a cache, weighed."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peers.process import ROOT, PeerError

INSTALL_SECONDS = 1800
# Tags of Linux wheels that a 64-bit Raspberry Pi OS or Debian of 2023 accepts.
AARCH64 = ("manylinux_2_35", "manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
SOURCES = ("edge_runtime", "trainer_lite", "export", "setup.py", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Environment:
    """What a peer needs. `decisive` is the package without whose wheel there is no peer."""

    name: str
    packages: tuple[str, ...]
    decisive: str

    def requirements(self) -> list[str]:
        """The packages with the versions that constraints.txt pins."""
        pinned = {}
        for line in (ROOT / "constraints.txt").read_text().splitlines():
            name, equals, _ = line.partition("==")
            if equals:
                pinned[name] = line.strip()
        return [pinned.get(package, package) for package in self.packages]


@dataclass(frozen=True)
class Installed:
    """An environment that is there. `install_bytes` is on disk, beyond an empty environment;
    `aarch64_wheel` is what the package index said on `asked`, None where it did not answer."""

    requirements: list[str]
    python: str
    install_bytes: int | None
    aarch64_wheel: bool | None
    asked: str | None


def installed(environment: Environment, cache: Path) -> Installed:
    """The environment in `cache`, made now unless it is there with the same requirements.

    Raises:
        PeerError: it cannot be made; what was begun is removed.
    """
    folder = (cache / environment.name).absolute()
    record = folder / "installed.json"
    requirements = environment.requirements()
    if record.exists():
        found = Installed(**json.loads(record.read_text()))
        if found.requirements == requirements and Path(found.python).exists():
            return found
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        run([sys.executable, "-m", "venv", str(folder)])
        python = folder / "bin" / "python"
        bare = disk_bytes(folder)
        pip_install(python, requirements)
        made = Installed(
            requirements,
            str(python),
            disk_bytes(folder) - bare,
            has_aarch64_wheel(python, environment.decisive),
            datetime.date.today().isoformat(),
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    record.write_text(json.dumps(asdict(made), indent=1) + "\n")
    return made


def pip_install(python: Path, requirements: Iterable[str]) -> None:
    """Installs; edgetune itself from a copy, so that no build folder is left among the sources."""
    with tempfile.TemporaryDirectory() as copy:
        wanted = [copy if name == "edgetune" else name for name in requirements]
        if copy in wanted:
            for name in SOURCES:
                source = ROOT / name
                (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(copy) / name)
        run([str(python), "-m", "pip", "install", "--quiet", *wanted])


def has_aarch64_wheel(python: Path, package: str) -> bool | None:
    """Whether the index has a wheel of any version for 64-bit ARM Linux and this Python."""
    platforms = [f"--platform={tag}_aarch64" for tag in AARCH64]
    version = f"--python-version={sys.version_info.major}.{sys.version_info.minor}"
    command = [str(python), "-m", "pip", "index", "versions", package, "--only-binary=:all:"]
    try:
        run([*command, *platforms, version])
    except PeerError as error:
        return False if "No matching distribution" in str(error) else None
    return True


def run(command: list[str]) -> None:
    """Runs a command; PeerError with its first line of error where it fails."""
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"not installed: {error}") from None
    if finished.returncode:
        lines = (finished.stderr or finished.stdout).strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        raise PeerError(f"not installed: {errors[-1] if errors else finished.returncode}")


def disk_bytes(folder: Path) -> int:
    """What `du` says: blocks on disk of everything below."""
    total = 0
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total
