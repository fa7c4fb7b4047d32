"""What all our files share: format names and versions, canonical JSON, identities, hashes.

`docs/formats.md` is the specification. hashlib is imported where files are hashed: it loads
OpenSSL, which hashes them fast and costs 3.7 MB of resident memory. Identities do without.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from edge_runtime import atomic
from edge_runtime.errors import FormatError, OutputExistsError

BACKBONE = "edgetune.backbone"
FEATURES = "edgetune.features"
SHARD = "edgetune.shard"
ADAPTOR = "edgetune.adaptor"
GRAPH = "edgetune.graph"
RUN = "edgetune.run"
HISTORY = "edgetune.history"
BOARD = "edgetune.board"
CHECKPOINT = "edgetune.checkpoint"
BASIS = "edgetune.basis"
SWEEP = "edgetune.sweep"
VERSION = 1
MANIFEST = "manifest.json"
FOLDERS = {BACKBONE: ("backbone", "export"), FEATURES: ("feature", "extract")}
MAX_JSON_BYTES = 16 << 20
PIECE_BYTES = 1 << 16  # of a JSON file

Json = dict[str, Any]


def canonical(content: Any) -> bytes:
    """The one spelling of a JSON value that is hashed."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def identity(content: Any) -> str:
    """sha256 of the canonical JSON: says what a thing is, however it is stored."""
    return small_sha256(canonical(content))


def small_sha256(data: bytes) -> str:
    """sha256 in hexadecimal, of what is in memory."""
    digest = start_sha256()
    digest.update(data)
    return str(digest.hexdigest())


def start_sha256() -> Any:
    """CPython's own code where it can be had, as the standard library's `random` does it."""
    for name in ("_sha2", "_sha256", "hashlib"):  # since Python 3.12; before; any other
        with suppress(ImportError):
            return import_module(name).sha256()
    raise AssertionError("hashlib is always there")


def check_identity(manifest: Json, path: Path) -> str:
    """The identity of a feature manifest; FormatError where it is not that of its content."""
    unsigned = {k: v for k, v in manifest.items() if k not in ("identity", "versions")}
    if identity(unsigned) != manifest.get("identity"):
        raise FormatError(f"{path} was altered: its identity is not its own")
    return str(manifest["identity"])


def file_sha256(path: Path, *, small: bool = False) -> str:
    """sha256 of a file, read in pieces; `small`: without hashlib, for processes that train."""
    if small:
        digest = start_sha256()
    else:
        import hashlib

        digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def check_version(content: Mapping[str, Any], expected: str, path: Path) -> None:
    """Refuses a file of another format, or of a version this release does not know."""
    found = content.get("format")
    if found != expected:
        raise FormatError(f"{path}: expected format {expected!r}, found {found!r}")
    version = content.get("version")
    if str(version) != str(VERSION):
        raise FormatError(
            f"{path}: version {version!r} of {expected} is not known here (this edgetune reads "
            f"version {VERSION}); use the edgetune that wrote it, or a newer one"
        )


def loads(text: str | bytes) -> Any:
    """Parses JSON; ValueError for NaN, infinite numbers and integers over 64 bits."""
    return json.loads(text, parse_constant=_number, parse_float=_number, parse_int=_integer)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no plain number")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= 1 << 63:
        raise ValueError("an integer over 64 bits")
    return int(text)


def parse_json(data: bytes, path: Path, what: str = "JSON") -> Json:
    """Parses a JSON object, or says that the file is damaged."""
    try:
        content = loads(data)
    except (ValueError, RecursionError):
        raise FormatError(f"{path}: {what} is damaged and cannot be read") from None
    if not isinstance(content, dict):
        raise FormatError(f"{path}: {what} must be a JSON object")
    return content


def read_json(path: Path) -> Json:
    """Reads a JSON object from a file, of which no more is read than ours can hold.

    In pieces: reading at most so many bytes at once would map that many, however small the file.
    """
    data = bytearray()
    with open(path, "rb") as file:
        while len(data) <= MAX_JSON_BYTES and (piece := file.read(PIECE_BYTES)):
            data += piece
    if len(data) > MAX_JSON_BYTES:
        raise FormatError(f"{path}: larger than {MAX_JSON_BYTES} bytes, not one of our manifests")
    return parse_json(bytes(data), path)


def read_manifest(folder: Path, expected: str) -> Json:
    """Reads `folder/manifest.json` and checks format and version.

    Raises:
        FormatError: no such manifest, damaged, or of another format or version.
    """
    path = folder / MANIFEST
    try:
        content = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        kind, command = FOLDERS[expected]
        raise FormatError(
            f"{folder} is not a {kind} folder: it has no {MANIFEST}; "
            f"give the folder that `edgetune {command}` wrote"
        ) from None
    check_version(content, expected, path)
    return content


def refuse_output(path: Path, expected: str, *, force: bool) -> None:
    """Refuses a folder to write that exists; with `force`, one that holds anything but ours.

    Raises:
        OutputExistsError: `path` exists, and may not or should not be replaced.
    """
    atomic.refuse_existing(path, force=force)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        try:
            read_manifest(path, expected)
        except FormatError:
            kind, _ = FOLDERS[expected]
            raise OutputExistsError(
                f"{path} is there and is not a {kind} folder; --force replaces only those, "
                f"choose another name"
            ) from None


def write_json(path: Path, content: Json) -> None:
    """Writes a JSON object in the form of docs/formats.md, atomically."""
    text = json.dumps(content, sort_keys=True, indent=2, allow_nan=False) + "\n"
    with atomic.write_file(path) as file:
        file.write(text.encode())


def field(content: Mapping[str, Any], key: str, kind: Any, path: Path) -> Any:
    """A required entry of a parsed file, of the given type (or tuple of types)."""
    value = content.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(one.__name__ for one in kinds)
        raise FormatError(f"{path}: entry {key!r} is missing or not of type {names}")
    return value


def whole(content: Mapping[str, Any], key: str, least: int, path: Path) -> int:
    """A required integer that is at least `least`."""
    value: int = field(content, key, int, path)
    if value < least:
        raise FormatError(f"{path}: entry {key!r} must be at least {least}, found {value}")
    return value


def positive(content: Mapping[str, Any], key: str, path: Path) -> float:
    """A required number above 0."""
    value = float(field(content, key, (int, float), path))
    if not value > 0:
        raise FormatError(f"{path}: entry {key!r} must be above 0, found {value:g}")
    return value
