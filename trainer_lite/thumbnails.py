"""Small pictures of images, for a page. Needs Pillow."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edge_runtime.errors import require
from edge_runtime.preprocess import formats_of

SIDE = 112  # pixels, at most
QUALITY = 80
MOST_BYTES = 16 << 10  # of one thumbnail


def thumbnails_of(folder: Path, runs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Thumbnails of the mistakes of some runs, by path; those that cannot be made are left out."""
    paths = {m["path"] for run in runs if run["evaluation"] for m in run["evaluation"]["mistakes"]}
    made = {path: thumbnail(folder, path) for path in sorted(paths)}
    return {path: data for path, data in made.items() if data is not None}


def thumbnail(folder: Path, path: str) -> str | None:
    """An image below `folder` as a data URI, a small JPEG; None where it is not there or is none.

    Args:
        path: as a feature shard names it, relative, with `/`. One that leads out of the folder
            is not opened.
    """
    pillow = require("PIL.Image", extra="vision")
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not (folder / path).is_file():
        return None
    try:
        with open(folder / path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pillow.open(file, formats=formats_of(file)) as image:
                image.draft("RGB", (2 * SIDE, 2 * SIDE))
                small = image.convert("RGB")
        small.thumbnail((SIDE, SIDE))
        written = io.BytesIO()
        small.save(written, "JPEG", quality=QUALITY)
    except MemoryError:
        raise
    except Exception:  # decoders raise anything on damaged files
        return None
    data = written.getvalue()
    if len(data) > MOST_BYTES:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
