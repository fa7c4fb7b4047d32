"""Images as they appear in a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_runtime.errors import DataError
from edge_runtime.preprocess import is_image_name

Stamp = tuple[int, int]


def appearing(
    folder: Path, interval: float, wait: Callable[[float], None] = time.sleep
) -> Iterator[Path]:
    """Images in `folder`, without end: those that are there, then each that comes or is replaced.

    A file counts once it has kept its size and time from one look to the next, so that none is
    read while it is still being written. Hidden files and folders are left alone.

    Args:
        interval: seconds between two looks. wait: called with it.

    Raises:
        DataError: no such folder.
    """
    told: dict[str, Stamp] = {}
    before: dict[str, Stamp] = {}
    while True:
        now = stamps(folder)
        told = {name: stamp for name, stamp in told.items() if name in now}
        for name in sorted(now, key=lambda name: (now[name], name)):
            if before.get(name) == now[name] != told.get(name):
                told[name] = now[name]
                yield folder / name
        before = now
        wait(interval)


def stamps(folder: Path) -> dict[str, Stamp]:
    """(time of change in ns, bytes) of each image file that lies directly in a folder."""
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not is_image_name(entry.name):
                    continue
                try:
                    if entry.is_file():
                        status = entry.stat()
                        found[entry.name] = (status.st_mtime_ns, status.st_size)
                except FileNotFoundError:
                    continue  # gone since it was listed
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder} is not a folder; give the folder to watch") from None
    return found
