"""`NAME.partial/`: a folder that is being made, and can be gone on with.

Beside what is finished lies `run.json`, which holds what was asked for: the same request goes on,
another one is refused. One process at a time: the folder is locked, where the system has such
locks, and a lock ends with its process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from edge_runtime import atomic, formats
from edge_runtime.errors import FormatError, MismatchError, OutputExistsError

RUN_FILE = "run.json"


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Makes `folder` and keeps other processes out of it until the block ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise OutputExistsError(
            f"{folder} cannot be made, a file stands in its place; remove it or choose another name"
        ) from None
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputExistsError(
                    f"{folder} is in use by another process; wait for it, or choose another name"
                ) from None
        yield
    finally:
        os.close(descriptor)


def begin(partial: Path, request: formats.Json, *, force: bool) -> None:
    """Empties `partial` and files the request, or accepts the leftovers of the same request.

    Raises:
        MismatchError: leftovers of another request, and no `force`.
    """
    for path in partial.glob(".*.tmp"):  # what a killed process was writing
        atomic.remove(path)
    present = sorted(path.name for path in partial.iterdir())
    if present:
        differing = _differences(partial / RUN_FILE, request)
        if not differing:
            return
        if not force:
            raise MismatchError(
                f"{partial} was begun with another request (differing: {', '.join(differing)}); "
                f"repeat that one to finish it, or pass --force to discard it"
            )
        for name in present:
            atomic.remove(partial / name)
    formats.write_json(partial / RUN_FILE, request)


def _differences(path: Path, request: formats.Json) -> list[str]:
    """Names of the entries in which a filed request differs from this one."""
    try:
        filed = formats.parse_json(path.read_bytes(), path)
    except (FormatError, OSError):
        return [f"no readable {path.name}"]
    return [
        f"{key} {filed.get(key)} there, {value} now" if key in ("codec", "batch_size") else key
        for key, value in request.items()
        if filed.get(key) != value
    ]
