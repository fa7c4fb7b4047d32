"""From logits of a grid of tokens to a class for every pixel, a strip and a class at a time.

Bilinear interpolation with pixel centres at halves, as PyTorch's `interpolate(mode="bilinear",
align_corners=False)`: a product with one matrix from each side. Only the best class so far is kept,
so that memory depends neither on the number of classes nor, but for a strip's width, on the size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edge_runtime.allocate import zeros
from edge_runtime.config import AdaptorConfig
from edge_runtime.forward import ForwardPass
from edge_runtime.program import Workspace

Array = np.ndarray[Any, Any]

STRIP = 32  # rows of pixels


class Pixels:
    """The best class of every pixel of a size x size mask, and how it compares with a true one."""

    def __init__(self, config: AdaptorConfig, size: int, workspace: Workspace):
        self.classes, self.size = config.classes, size
        self.weights = bilinear(config.grid_side, size, workspace.dtype)
        strip = min(STRIP, size)
        shape = (strip, size)
        self.truth = workspace.array("pixels.truth", (size, size), np.uint8)
        self.across = workspace.array("pixels.across", (strip, config.grid_side))
        self.logits = workspace.array("pixels.logits", shape)
        self.best = workspace.array("pixels.best", shape)
        self.better = workspace.array("pixels.better", shape, np.bool_)
        self.winner = workspace.array("pixels.winner", shape, np.uint8)
        self.pairs = workspace.array("pixels.pairs", shape, np.intp)
        self.confusion = np.zeros(0, np.int64)
        self.clear()

    @property
    def uses(self) -> tuple[Array, ...]:
        """All that it works in of the workspace."""
        work = (self.truth, self.across, self.logits, self.best, self.better)
        return (*work, self.winner, self.pairs)

    def clear(self) -> None:
        """Starts counting anew."""
        self.confusion = np.zeros((self.classes + 1) * self.classes, np.int64)

    def count(self, grids: Array) -> None:
        """Adds the pixels of one image, whose mask is in `truth`; grids are (K, side, side)."""
        for rows, winner in self.strips(grids):
            pairs = self.pairs[: len(winner)]
            np.minimum(self.truth[rows], self.classes, out=pairs)  # what is ignored comes last
            np.multiply(pairs, self.classes, out=pairs)
            np.add(pairs, winner, out=pairs)
            self.confusion += np.bincount(pairs.reshape(-1), minlength=len(self.confusion))

    @property
    def counts(self) -> Array:
        """confusion[true, predicted] of the pixels that have a class, (classes, classes)."""
        return self.confusion.reshape(-1, self.classes)[: self.classes].copy()

    def mask(self, grids: Array) -> Array:
        """The best class of every pixel, uint8 (size, size)."""
        out = np.empty((self.size, self.size), np.uint8)
        for rows, winner in self.strips(grids):
            out[rows] = winner
        return out

    def strips(self, grids: Array) -> Iterator[tuple[slice, Array]]:
        """(rows, their best classes); of equal ones the first. The next strip overwrites them."""
        for start in range(0, self.size, STRIP):
            rows = slice(start, min(start + STRIP, self.size))
            count = rows.stop - rows.start
            across, logits = self.across[:count], self.logits[:count]
            best, better, winner = self.best[:count], self.better[:count], self.winner[:count]
            winner.fill(0)
            for index, grid in enumerate(grids):
                np.matmul(self.weights[rows], grid, across)
                np.matmul(across, self.weights.T, logits if index else best)
                if index:
                    np.greater(logits, best, better)
                    np.copyto(best, logits, where=better)
                    np.copyto(winner, index, where=better)
            yield rows, winner


class CountPixels:
    """The operation that counts the pixels of a tile of images, where `source` is set.

    Its arrays do not tell what its products cost; `macs` does.
    """

    def __init__(self, pixels: Pixels, forward: ForwardPass):
        config, size = forward.config, pixels.size
        self.pixels, self.forward = pixels, forward
        self.source: Any = None
        self.rows: Array = np.zeros(0, np.intp)
        grids = forward.images * config.classes
        self.macs = grids * config.grid_side * size * (config.grid_side + size)

    def __call__(self) -> None:
        if self.source is not None:
            for position, grids in enumerate(self.forward.image_logits):
                row = self.rows[position : position + 1]
                self.source.read_masks(row, self.pixels.truth[None])
                self.pixels.count(grids)


def bilinear(side: int, size: int, dtype: Any = np.float64) -> Array:
    """Weights (size, side) of `side` values for `size` places between and beyond their centres."""
    place = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0.0, side - 1.0)
    first = np.minimum(place.astype(np.intp), max(0, side - 2))
    weights = zeros((size, side), dtype)
    weights[np.arange(size), first] = 1.0 - (place - first)
    if side > 1:
        weights[np.arange(size), first + 1] = place - first
    return weights
