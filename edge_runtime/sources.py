"""Where features are read from: what training and prediction ask for, and features in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from edge_runtime.errors import DataError

Array = np.ndarray[Any, Any]


class FeatureSource(Protocol):
    """Labelled feature maps that can be read by row.

    Those with masks also have `mask_size`, pixels along a side, and `read_masks(rows, out)`, which
    fills uint8 (n, mask_size, mask_size) with class indices, 255 where there is none.
    """

    tokens: int
    embed_dim: int

    @property
    def labels(self) -> Array:
        """Class index of every row, (rows,); with masks of every patch token, uint8 (rows, patch
        tokens), 255 where there is none."""

    def scratch_bytes(self, images: int) -> int:
        """Bytes of work space that reading so many rows takes."""

    def read(self, rows: Array, z: Array, norms: Array, scratch: Array) -> None:
        """Fills z (n, tokens, dim) with decoded features and norms (n, tokens) with theirs.

        `scratch` is work space, uint8, of at least scratch_bytes(n) bytes, 8-byte aligned.
        """


def prefetch(source: FeatureSource, rows: Array) -> None:
    """Announces rows that will be read soon to sources that can make use of it."""
    announce = getattr(source, "prefetch", None)
    if announce is not None:
        announce(rows)


class ArrayFeatures:
    """Features in memory, (rows, tokens, dim) in true units, as a FeatureSource.

    Raises:
        DataError: a wrong shape, or entries that are not finite.
    """

    def __init__(self, features: Array, labels: Sequence[int] | Array | None = None):
        if features.ndim != 3:
            raise DataError(f"features must be rows x tokens x dim, not of shape {features.shape}")
        self.features = features
        self.tokens, self.embed_dim = features.shape[1:]
        self._labels = np.zeros(len(features), np.int32) if labels is None else np.asarray(labels)
        if self._labels.shape != (len(features),):
            raise DataError(f"{len(features)} feature maps need as many labels")
        if not np.isfinite(features).all():
            raise DataError("features hold NaN or infinite entries")

    @property
    def labels(self) -> Array:
        return self._labels

    def scratch_bytes(self, images: int) -> int:
        return 0

    def read(self, rows: Array, z: Array, norms: Array, scratch: Array) -> None:
        np.copyto(z, self.features[rows])
        centred = z - z.mean(axis=2, keepdims=True)
        np.einsum("rtd,rtd->rt", centred, centred, out=norms)
