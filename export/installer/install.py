"""Installs edgetune from the bundle that this file lies in, with the standard library alone.

    ./install.sh [PREFIX] [--force]

Everything goes into PREFIX: lib/ (packages), bin/edgetune, and what adaptor and features the bundle
carries. It is built as PREFIX.partial, and gets its name once `edgetune selftest` passed. What
counts is the interpreter that runs this, not the kernel: a 64-bit one may carry a 32-bit userland.
"""

from __future__ import annotations

import argparse
import compileall
import ctypes
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
MACHINES = {183: "aarch64", 40: "armv7l", 62: "x86_64"}  # e_machine of an ELF header
HARD_FLOAT = 0x400  # of e_flags, on 32-bit ARM
LAUNCHER = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "PYTHON" "$here/../lib/run_edgetune.py" "$@"
"""
# A script's own folder is searched first: these packages, whatever lies in the user's folder.
RUN = """from edge_runtime.cli import main

main(prog_name="edgetune")
"""
ASK_NUMPY = """
import numpy
libraries = [line.split()[-1] for line in open("/proc/self/maps") if "/" in line]
names = {name.rpartition("/")[2] for name in libraries}
fast = any(kind in name for name in names for kind in ("openblas", "blis", "atlas", "mkl"))
print(numpy.__version__, "fast" if fast else "slow")
"""


class InstallError(Exception):
    """What is wrong and what to do, in one line."""


def main() -> int:
    """Installs; the exit status."""
    parser = argparse.ArgumentParser(prog="install.sh", description="Install edgetune.")
    parser.add_argument("prefix", nargs="?", type=Path, default=Path.home() / "edgetune")
    parser.add_argument("--force", action="store_true", help="replace what was installed there")
    options = parser.parse_args()
    try:
        install(
            Path(__file__).resolve().parent, Path(os.path.abspath(options.prefix)), options.force
        )
    except (InstallError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def install(bundle: Path, prefix: Path, force: bool) -> None:
    """Checks the bundle and the board, builds PREFIX.partial, tests it, and gives it its name."""
    manifest = read_manifest(bundle)
    if prefix.exists() and not (prefix.is_dir() and not any(prefix.iterdir())):
        ours = (prefix / MANIFEST).is_file() and (prefix / "bin" / "edgetune").is_file()
        if not (force and ours):
            hint = "pass --force to replace it" if ours else "it is none of ours"
            raise InstallError(f"{prefix} exists already ({hint}); choose another PREFIX")
    wheels = check_board(manifest)
    check_board_packages(manifest)
    check_files(bundle, manifest)
    partial = prefix.with_name(prefix.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        build(bundle, manifest, wheels, partial)
        say("running edgetune selftest")
        tested = subprocess.run([str(partial / "bin" / "edgetune"), "selftest"])
        if tested.returncode:
            raise InstallError("selftest failed: nothing was installed")
        if prefix.exists():
            shutil.rmtree(prefix)
        os.replace(partial, prefix)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(f"installed edgetune {manifest['edgetune']} as {prefix}/bin/edgetune")


def read_manifest(bundle: Path) -> dict[str, Any]:
    """The bundle's manifest."""
    try:
        manifest: dict[str, Any] = json.loads((bundle / MANIFEST).read_bytes())
        known = (manifest["format"], manifest["version"]) == ("edgetune.bundle", 1)
        known = known and all(map(plain, manifest["files"].items()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        known = False
    if not known:
        raise InstallError(f"{bundle / MANIFEST} is missing or damaged; unpack the bundle again")
    return manifest


def plain(item: tuple[str, Any]) -> bool:
    """Whether an entry of `files` names a file inside the bundle, its bytes and its sha256."""
    name, entry = item
    inside = "\0" not in name and not set(name.split("/")) & {"", ".", ".."}
    return inside and isinstance(entry["bytes"], int) and isinstance(entry["sha256"], str)


def check_board(manifest: dict[str, Any]) -> list[str]:
    """Names of the wheels for this interpreter; refuses one that the bundle is not for."""
    found, target = machine_of(Path(os.path.realpath(sys.executable))), manifest["target"]
    if found != target:
        raise InstallError(
            f"this bundle is for {target}, {sys.executable} is a {found} program; "
            f"make one with --target {found}"
        )
    python = "{}.{}".format(*sys.version_info[:2])
    if python not in manifest["pythons"]:
        have = ", ".join(manifest["pythons"])
        raise InstallError(
            f"this bundle is for Python {have}, {sys.executable} is {python}; set PYTHON, or make "
            f"one with --python {python}"
        )
    needed, version = tuple(manifest["glibc"]), glibc_version()
    if needed != (0, 0) and version < needed:
        have = "glibc {}.{}".format(*version) if version != (0, 0) else "another C library"
        raise InstallError(
            "the packages of this bundle need glibc {}.{}, here is {}; use a newer system".format(
                *needed, have
            )
        )
    if needed != (0, 0):
        try:
            ctypes.CDLL("libstdc++.so.6")
        except OSError:
            raise InstallError(
                "the packages of this bundle need libstdc++: sudo apt-get install libstdc++6"
            ) from None
    wheels: list[str] = manifest["pythons"][python]
    return wheels


def machine_of(program: Path) -> str:
    """The processor that a program is for, by its ELF header."""
    with open(program, "rb") as file:
        head = file.read(52)
    if head[:4] != b"\x7fELF" or len(head) < 52:
        return "non-ELF"
    (machine,) = struct.unpack_from("<H", head, 18)
    if machine == 40 and not struct.unpack_from("<I", head, 36)[0] & HARD_FLOAT:
        return "soft-float arm"
    return MACHINES.get(machine, f"machine {machine}")


def glibc_version() -> tuple[int, ...]:
    """Version of the C library; (0, 0) where it is not glibc."""
    try:
        told = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        told = ""
    match = re.fullmatch(r"glibc (\d+)\.(\d+).*", told)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def check_files(bundle: Path, manifest: dict[str, Any]) -> None:
    """Every file's size and sha256."""
    for name, entry in manifest["files"].items():
        path = bundle / name
        if (
            not path.is_file()
            or path.stat().st_size != entry["bytes"]
            or (sha256_of(path) != entry["sha256"])
        ):
            raise InstallError(f"{path} is missing or damaged; copy the bundle again")


def sha256_of(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def build(bundle: Path, manifest: dict[str, Any], wheels: list[str], partial: Path) -> None:
    """Unpacks and compiles the packages, writes the launcher, copies what the bundle carries."""
    lib = partial / "lib"
    for name in wheels:
        say(f"unpacking {name}")
        unpack(bundle / "wheels" / name, lib)
    (lib / "run_edgetune.py").write_text(RUN)
    compileall.compile_dir(str(lib), quiet=2)
    (partial / "bin").mkdir()
    launcher = partial / "bin" / "edgetune"
    launcher.write_text(LAUNCHER.replace("PYTHON", sys.executable))
    launcher.chmod(0o755)
    shutil.copyfile(bundle / MANIFEST, partial / MANIFEST)
    for name in manifest["files"]:
        if not name.startswith(("wheels/", "install.")):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, partial / name)


def unpack(wheel: Path, lib: Path) -> None:
    """Unpacks a wheel; of its data folder, what belongs beside the packages."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            parts = Path(entry.filename).parts
            if parts and parts[0].endswith(".data"):
                if len(parts) < 3 or parts[1] not in ("purelib", "platlib"):
                    continue
                parts = parts[2:]
            if entry.is_dir() or not parts:
                continue
            if ".." in parts or Path(*parts).is_absolute():
                raise InstallError(f"{wheel.name} has an entry that leaves its folder")
            out = lib.joinpath(*parts)
            out.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, open(out, "wb") as file:
                shutil.copyfileobj(source, file)


def check_board_packages(manifest: dict[str, Any]) -> None:
    """What no wheel exists for comes with the board's system; and how fast its numpy is."""
    for module, package in manifest["from_board"].items():
        asked = subprocess.run(
            [sys.executable, "-c", f"import {module}"], capture_output=True, text=True
        )
        if asked.returncode:
            why = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InstallError(
                f"{module} must come from the system, for PyPI has no wheel of it for "
                f"{manifest['target']}, and it cannot be imported ({why}): "
                f"sudo apt-get install {package}"
            )
        say(f"{module} is the system's ({package})")
    if "numpy" not in manifest["from_board"]:
        return
    asked = subprocess.run([sys.executable, "-c", ASK_NUMPY], capture_output=True, text=True)
    version, speed = asked.stdout.split()
    if tuple(map(int, version.split(".")[:2])) < (1, 24):
        raise InstallError(f"edgetune needs numpy 1.24 or newer, the system's is {version}")
    if speed == "slow":
        say(
            "warning: this numpy multiplies with the reference BLAS, several times slower than "
            "OpenBLAS: sudo apt-get install libopenblas0-pthread"
        )


def say(message: str) -> None:
    """A line for people, at once."""
    print(message, flush=True)


if __name__ == "__main__":
    sys.exit(main())
