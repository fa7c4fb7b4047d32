"""Which rows a step sees: shuffled anew each epoch, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from edge_runtime.sources import FeatureSource, prefetch
from trainer_lite.draws import draws, shuffle

Array = np.ndarray[Any, Any]


def epoch_batches(rows: int, batch: int, seed: int, epoch: int, first: int = 0) -> Iterator[Array]:
    """Row indices of each batch of one epoch, from batch `first` on; the last may be smaller."""
    order = np.arange(rows)
    shuffle(order, draws(f"order {seed} {epoch}"))
    for start in range(first * batch, rows, batch):
        yield order[start : start + batch]


def with_next(batches: Iterable[Array]) -> Iterator[tuple[Array, Array | None]]:
    """Each batch with the one after it, None after the last."""
    before: Array | None = None
    for rows in batches:
        if before is not None:
            yield before, rows
        before = rows
    if before is not None:
        yield before, None


def drop_path_factors(rate: float, blocks: int, images: int, seed: int, step: int) -> Array:
    """Drop-path (arXiv 1603.09382) factors 0 or 1 / (1 - rate), (blocks, images)."""
    draw = draws(f"drop {seed} {step}")
    kept = [draw() >= rate for _ in range(blocks * images)]
    return np.array(kept, np.float32).reshape(blocks, images) / np.float32(1 - rate)


class Joined:
    """Several sources as one, their rows one after the other."""

    def __init__(self, sources: Sequence[FeatureSource]):
        self.sources = sources
        self.tokens, self.embed_dim = sources[0].tokens, sources[0].embed_dim
        self.mask_size = getattr(sources[0], "mask_size", 0)
        self._starts = np.cumsum([0] + [len(source.labels) for source in sources])
        self._labels = np.concatenate([source.labels for source in sources])

    @property
    def labels(self) -> Array:
        return self._labels

    def scratch_bytes(self, images: int) -> int:
        return max(source.scratch_bytes(1) for source in self.sources)

    def prefetch(self, rows: Array) -> None:
        for row, index in zip(rows, np.searchsorted(self._starts, rows, side="right") - 1):
            prefetch(self.sources[index], np.array([row - self._starts[index]]))

    def read(self, rows: Array, z: Array, norms: Array, scratch: Array) -> None:
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for position, (row, index) in enumerate(zip(rows, owner)):
            one = slice(position, position + 1)
            local = np.array([row - self._starts[index]])
            self.sources[index].read(local, z[one], norms[one], scratch)

    def read_masks(self, rows: Array, out: Array) -> None:
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for row, index, mask in zip(rows, owner, out):
            source: Any = self.sources[index]
            source.read_masks(np.array([row - self._starts[index]]), mask[None])
