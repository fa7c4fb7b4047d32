"""Some rows of a source, under labels of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_runtime.sources import FeatureSource, prefetch

Array = np.ndarray[Any, Any]


class Selected:
    """A FeatureSource of the rows (n,) of another, with labels (n,); `on_read` hears how many rows
    each reading took."""

    def __init__(
        self,
        source: FeatureSource,
        rows: Array,
        labels: Array,
        on_read: Callable[[int], None] = lambda count: None,
    ):
        self.source, self.rows, self._labels, self.on_read = source, rows, labels, on_read
        self.tokens, self.embed_dim = source.tokens, source.embed_dim

    @property
    def labels(self) -> Array:
        return self._labels

    def scratch_bytes(self, images: int) -> int:
        return self.source.scratch_bytes(images)

    def prefetch(self, rows: Array) -> None:
        prefetch(self.source, self.rows[rows])

    def read(self, rows: Array, z: Array, norms: Array, scratch: Array) -> None:
        self.source.read(self.rows[rows], z, norms, scratch)
        self.on_read(len(rows))


def by_name(
    source: FeatureSource,
    classes: Sequence[str],
    wanted: Sequence[str],
    known: Sequence[str],
    on_read: Callable[[int], None] = lambda count: None,
) -> Selected:
    """The rows of the classes `wanted`, labelled by their place in `known`.

    Args:
        classes: names of the source's labels; those in `wanted` must be in `known` too.
    """
    place = np.full(len(classes), -1, np.int32)
    for index, name in enumerate(classes):
        if name in wanted:
            place[index] = known.index(name)
    labels = place[source.labels]
    rows = np.flatnonzero(labels >= 0)
    return Selected(source, rows, labels[rows], on_read)
