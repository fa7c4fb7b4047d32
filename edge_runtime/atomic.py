"""Files and folders that appear whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edge_runtime.errors import ConfigError, OutputExistsError


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raises OutputExistsError where `path` exists and may not be replaced."""
    if not force and (path.exists() or path.is_symlink()):
        raise OutputExistsError(f"{path} exists already; choose another name or pass --force")


def refuse_special(path: Path) -> None:
    """Raises OutputExistsError where a folder, device or pipe stands: a file never replaces one."""
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder; give the name of the file to write")
    if path.exists() and not path.is_file():
        raise OutputExistsError(f"{path} is a device or a pipe; give the name of the file to write")


def refuse_unwritable(path: Path, *, force: bool) -> None:
    """Says before the work begins that the file `path` could not be written at its end.

    Raises:
        OutputExistsError: it exists and may not be replaced, or is a folder or a device.
        ConfigError: its folder is a file, or may not be written to.
    """
    refuse_special(path)
    refuse_existing(path, force=force)
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ConfigError(f"{path} cannot be written, {folder} is no folder; choose another name")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{path} cannot be written, {folder} is read-only; choose another folder")


def partial_path(path: Path) -> Path:
    """The name under which `path` is built before it is whole."""
    return path.with_name(path.name + ".partial")


def sync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` survive a power cut, where the system can do so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def write_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path`; it takes the name `path` when the block ends well."""
    refuse_special(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename is None:  # a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    sync_folder(path.parent)


def remove_leftovers(path: Path) -> None:
    """Removes the temporary files of `path` that killed processes left behind.

    Only for a path that no other process writes to.
    """
    if path.parent.is_dir():
        for name in os.listdir(path.parent):
            if re.fullmatch(rf"\.{re.escape(path.name)}\.\d+\.tmp", name):
                (path.parent / name).unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder with all it holds; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        import shutil  # brings bz2 and lzma: memory that a training run does without

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def publish_folder(built: Path, path: Path) -> None:
    """Gives the finished folder `built` its name; what stood there before goes afterwards."""
    sync_folder(built)
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists() or path.is_symlink():
        os.replace(path, old)
    try:
        os.replace(built, path)
    except BaseException:
        if old.exists() or old.is_symlink():
            os.replace(old, path)
        raise
    sync_folder(path.parent)
    remove(old)
