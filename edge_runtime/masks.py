"""Masks: a class index for every pixel, and what a grid of tokens is labelled from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import formats
from edge_runtime.config import IGNORED
from edge_runtime.errors import ConfigError, FormatError

Array = np.ndarray[Any, Any]

PIXELS = 1 << 14  # that are counted at a time, to take little memory
MAX_SIZE = 8192  # pixels along a side, as of an image (preprocess.py)


@dataclass(frozen=True)
class MaskShape:
    """What a feature folder with masks stores beside each feature map.

    Args:
        size: pixels along a side of a mask. side: labelled patch tokens along a side.
    """

    size: int
    side: int

    @property
    def bytes_per_image(self) -> int:
        return self.size**2 + self.side**2


def mask_shape(size: int, patch_tokens: int) -> MaskShape:
    """Of masks of size x size pixels, which so many patch tokens are laid over.

    Raises:
        ConfigError: the patch tokens are no square grid.
    """
    side = math.isqrt(patch_tokens)
    if side * side != patch_tokens or not side:
        raise ConfigError(
            f"images with masks need a backbone whose patch tokens are a square grid, and these "
            f"{patch_tokens} are none"
        )
    return MaskShape(size, side)


def mask_size(content: Mapping[str, Any], where: Path) -> int:
    """The entry `size` of a parsed file: pixels along a side; FormatError where it is none."""
    size = formats.whole(content, "size", 1, where)
    if size > MAX_SIZE:
        raise FormatError(f"{where}: masks of {size} pixels a side; at most {MAX_SIZE} are known")
    return size


def token_labels(masks: Array, side: int) -> Array:
    """Of masks (n, size, size) what most pixels of each patch are: uint8 (n, side * side).

    255 wins like any class; of equally many the lowest index. Where the size does not divide, a
    pixel belongs to the patch that its row and column times side / size fall into.
    """
    labels = np.empty((len(masks), side, side), np.uint8)
    for mask, out in zip(masks, labels):
        for rows, counts in class_counts(mask, side, IGNORED):
            out[rows] = counts.argmax(axis=2)
    return labels.reshape(len(masks), -1)


def class_counts(mask: Array, side: int, classes: int) -> Iterator[tuple[slice, Array]]:
    """Of a mask (size, size) and some rows of patches at a time: which, and the pixels of each
    class in each patch, (rows, side, classes + 1), those without a class last."""
    size = len(mask)
    cell = np.arange(size) * side // size
    starts = np.searchsorted(cell, np.arange(side + 1)).tolist()
    step, height = max(1, PIXELS * side // size**2), max(1, PIXELS // size)
    for top in range(0, side, step):
        bottom = min(top + step, side)
        shape = (bottom - top, side, classes + 1)
        counts = np.zeros(math.prod(shape), np.intp)
        for start in range(starts[top], starts[bottom], height):
            rows = slice(start, min(start + height, starts[bottom]))
            pairs = np.minimum(mask[rows], classes, dtype=np.intp)
            pairs += cell * (classes + 1)
            pairs += (cell[rows, None] - top) * (side * (classes + 1))
            counts += np.bincount(pairs.reshape(-1), minlength=len(counts))
        yield slice(top, bottom), counts.reshape(shape)
