"""Masks as PNG files, without Pillow: 8-bit indices with a palette."""

from __future__ import annotations

import colorsys
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import atomic

Array = np.ndarray[Any, Any]

GOLDEN = 0.618034  # of a turn: hues that follow each other lie far apart


def write_mask(path: Path, mask: Array) -> None:
    """Writes uint8 (height, width), atomically; index 0 is black, each other one a colour."""
    height, width = mask.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each begins with its filter: none
    rows[:, 1:] = mask
    colours = b"".join(colour(index) for index in range(int(mask.max()) + 1))
    with atomic.write_file(path) as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, content in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            (b"PLTE", colours),
            (b"IDAT", zlib.compress(rows.tobytes(), 6)),
            (b"IEND", b""),
        ):
            file.write(struct.pack(">I", len(content)) + name + content)
            file.write(struct.pack(">I", zlib.crc32(name + content)))


def colour(index: int) -> bytes:
    """Red, green and blue of an index."""
    if index == 0:
        return bytes(3)
    parts = colorsys.hsv_to_rgb(index * GOLDEN % 1.0, 1.0 - 0.35 * (index % 2), 0.95)
    return bytes(round(255 * part) for part in parts)
