"""Some rows of a feature folder as a feature folder: what a protocol trains on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_runtime.feature_split import FeatureSplit
from edge_runtime.features import FeatureFolder

Array = np.ndarray[Any, Any]


class Rows(FeatureSplit):
    """Some rows of a split, in the order given; the root mean square is the whole split's."""

    def __init__(self, source: FeatureSplit, chosen: Array):
        self._source, self._chosen = source, chosen
        super().__init__(source.folder, source.name, source.shards, source.rms)
        self.rows = len(chosen)

    @property
    def labels(self) -> Array:
        return self._source.labels[self._chosen]

    def prefetch(self, rows: Array) -> None:
        self._source.prefetch(self._chosen[rows])

    def read(self, rows: Array, z: Array, norms: Array, scratch: Array) -> None:
        self._source.read(self._chosen[rows], z, norms, scratch)


class View(FeatureFolder):
    """A feature folder whose splits are (name of a split, rows of it)."""

    def __init__(self, whole: FeatureFolder, parts: Mapping[str, tuple[str, Array]]):
        super().__init__(whole.path, whole.manifest)
        self._splits = {name: Rows(whole.split(of), rows) for name, (of, rows) in parts.items()}
