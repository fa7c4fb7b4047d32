"""The wheels of a bundle: edgetune's own, put together here, and others, fetched by pip."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime import __version__
from edge_runtime.errors import ExportError

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("edge_runtime", "trainer_lite", "export")
LONG_AGO = (1980, 1, 1, 0, 0, 0)
NUMPY, CLICK = "numpy>=1.24,<2.5", "click>=8.1"


@dataclass(frozen=True)
class Target:
    """A kind of board: tags of the wheels that run there, and what is taken from its system."""

    tags: tuple[str, ...]
    requirements: tuple[str, ...] = (NUMPY, CLICK)
    extras: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    from_board: dict[str, str] = field(default_factory=dict)
    """Module -> Debian package, where PyPI has no wheel."""
    extras_from_board: dict[str, dict[str, str]] = field(default_factory=dict)


def tags(machine: str, *glibc: str) -> tuple[str, ...]:
    """Platform tags of a machine, newest first."""
    return tuple(f"manylinux_{version}_{machine}" for version in glibc)


EXTRAS = {
    "vision": ("Pillow>=9.4",),
    "ort": ("onnxruntime>=1.16",),
    "tflite": ("ai-edge-litert>=2.0",),
}
USUAL = ("2_28", "2_27", "2_26", "2_17")
TARGETS = {
    "aarch64": Target((*tags("aarch64", *USUAL), "manylinux2014_aarch64"), extras=EXTRAS),
    "armv7l": Target(
        (*tags("armv7l", "2_34", "2_31", "2_17"), "manylinux2014_armv7l"),
        requirements=(CLICK,),
        extras={"vision": (), "tflite": ("tflite-runtime==2.14.0",)},
        from_board={"numpy": "python3-numpy"},
        extras_from_board={"vision": {"PIL": "python3-pil"}},
    ),
    "x86_64": Target((*tags("x86_64", *USUAL), "manylinux2014_x86_64"), extras=EXTRAS),
}


def fetch(
    target: Target, python: str, extras: list[str], constraint: Path | None, to: Path
) -> None:
    """Has pip download the wheels for a board and a Python into a folder.

    Raises:
        ExportError: pip is missing, or there are no such wheels.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += [part for tag in target.tags for part in ("--platform", tag)]
    command += ["--dest", str(to)]
    if constraint is not None:
        command += ["--constraint", str(constraint)]
    if target.from_board:  # else pip would look for wheels of what the board has itself
        command.append("--no-deps")
    wanted = [*target.requirements, *(one for extra in extras for one in target.extras[extra])]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = lines[-1][len("ERROR: ") :] if lines else (done.stderr.strip() or "no reason given")
        raise ExportError(f"pip found no wheels for Python {python}: {why[:300]}")


def own_wheel() -> tuple[str, bytes]:
    """(file name, content) of edgetune's wheel, from the code that runs; the same every time.

    Put together here because building one takes setuptools, and gives other bytes with each.
    """
    name, version = "edgetune", __version__
    about = f"{name}-{version}.dist-info"
    files = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }
    files[f"{about}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: >=3.9\n"
        f"Requires-Dist: {NUMPY}\nRequires-Dist: {CLICK}\n"
    ).encode()
    files[f"{about}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: edgetune\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{about}/entry_points.txt"] = b"[console_scripts]\nedgetune = edge_runtime.cli:main\n"
    record = "".join(f"{path},{digest(data)},{len(data)}\n" for path, data in files.items())
    files[f"{about}/RECORD"] = f"{record}{about}/RECORD,,\n".encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            entry = zipfile.ZipInfo(path, LONG_AGO)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return f"{name}-{version}-py3-none-any.whl", packed.getvalue()


def digest(data: bytes) -> str:
    """As a wheel's RECORD has it."""
    found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"sha256={found}"


def glibc_of(names: list[str]) -> tuple[int, int]:
    """The oldest glibc on which all of these wheels run; (0, 0) where none has compiled code."""
    needed = (0, 0)
    for name in names:
        platforms = name[: -len(".whl")].split("-")[-1].replace("manylinux2014", "manylinux_2_17")
        versions = re.findall(r"manylinux_(\d+)_(\d+)_", platforms)
        if versions:
            needed = max(needed, min((int(major), int(minor)) for major, minor in versions))
    return needed
