"""One archive with all that a board needs: packages, an installer, an adaptor, features."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Union

from edge_runtime import __version__, atomic, formats
from edge_runtime.adaptor import Adaptor
from edge_runtime.errors import ConfigError
from edge_runtime.features import FeatureFolder
from export.wheels import TARGETS, fetch, glibc_of, own_wheel

BUNDLE = "edgetune.bundle"
TOP = "edgetune-bundle"
INSTALLER = Path(__file__).parent / "installer"
SCRIPTS = ("install.sh", "install.py")

Content = Union[bytes, Path]


def collect(
    target: str,
    pythons: Sequence[str],
    extras: Sequence[str],
    downloads: Path,
    *,
    adaptor: Path | None = None,
    features: Path | None = None,
    constraint: Path | None = None,
) -> dict[str, Content]:
    """Every file of a bundle by its name, the manifest last.

    Args:
        downloads: an empty folder, which keeps the wheels.
        target: a key of TARGETS. pythons: as `3.11`. extras: of `vision`, `ort`, `tflite`.
        adaptor: an adaptor file to take along. features: a feature folder to take along.
        constraint: a constraints file for pip: without one, the newest versions are taken.

    Raises:
        ConfigError: an extra that the target has nothing for.
        FormatError, MismatchError: adaptor or features are none, or do not belong together.
        ExportError: there are no such wheels.
    """
    board = TARGETS[target]
    for extra in extras:
        if extra not in board.extras:
            raise ConfigError(f"there are no wheels for --with {extra} on {target}; leave it out")
    files = carried(adaptor, features)
    own, content = own_wheel()
    wheels: dict[str, Content] = {own: content}
    chosen = {}
    for python in pythons:
        folder = downloads / python
        fetch(board, python, list(extras), constraint, folder)
        found = {path.name: path for path in sorted(folder.glob("*.whl"))}
        wheels.update(found)
        chosen[python] = [own, *found]
    files.update({f"wheels/{name}": wheels[name] for name in sorted(wheels)})
    files.update({name: INSTALLER / name for name in SCRIPTS})
    from_board = dict(board.from_board)
    for extra in extras:
        from_board.update(board.extras_from_board.get(extra, {}))
    manifest: formats.Json = {
        "format": BUNDLE,
        "version": formats.VERSION,
        "edgetune": __version__,
        "target": target,
        "pythons": chosen,
        "extras": sorted(extras),
        "glibc": list(glibc_of(list(wheels))),
        "from_board": from_board,
        "files": {
            name: {"bytes": size_of(content), "sha256": sha256_of(content)}
            for name, content in sorted(files.items())
        },
    }
    return {**files, formats.MANIFEST: formats.canonical(manifest)}


def carried(adaptor: Path | None, features: Path | None) -> dict[str, Content]:
    """Adaptor and features as files of the bundle, checked as the board would."""
    files: dict[str, Content] = {}
    trained = None if adaptor is None else Adaptor.load(adaptor)
    if adaptor is not None:
        files["adaptor.safetensors"] = adaptor
    if features is not None:
        folder = FeatureFolder.open(features)
        folder.check()
        if trained is not None:
            trained.check_stored(folder)
        names = [formats.MANIFEST, *(name for name, _ in folder.verify())]
        files.update({f"features/{name}": features / name for name in names})
    return files


def size_of(content: Content) -> int:
    """Bytes of a file of the bundle."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def sha256_of(content: Content) -> str:
    """Of a file of the bundle."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return formats.file_sha256(content)


def write(files: Mapping[str, Content], out: Path) -> int:
    """Writes the .tar.gz, atomically; its bytes. The same files give the same bytes."""
    with atomic.write_file(out) as file:
        with (
            gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name in sorted(files):
                entry = tarfile.TarInfo(f"{TOP}/{name}")
                entry.size = size_of(files[name])
                entry.mode = 0o755 if name.endswith(".sh") else 0o644
                with opened(files[name]) as source:
                    archive.addfile(entry, source)
        return file.tell()


def opened(content: Content) -> IO[bytes]:
    """A file of the bundle, to read."""
    return io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb")
