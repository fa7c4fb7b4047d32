"""Features in memory as a device stores them: what reading costs, without a disk."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime.codecs import CODECS, decode, token_norms

Array = np.ndarray[Any, Any]


class StoredHalf:
    """float16 feature maps (rows, tokens, dim) as a FeatureSource."""

    def __init__(self, stored: Array, labels: Array):
        self.stored, self.labels = stored, labels
        self.tokens, self.embed_dim = stored.shape[1:]
        self._norms = token_norms(stored.astype(np.float32))
        self._scale = np.ones(len(stored), np.float32)

    def scratch_bytes(self, images: int) -> int:
        """Room for the stored rows."""
        return images * self.stored[0].nbytes

    def read(self, rows: Array, z: Array, norms: Array, scratch: Array) -> None:
        """Copies the rows, as reading a file does, and decodes them."""
        shape = (len(rows), self.tokens, self.embed_dim)
        raw = scratch[: len(rows) * self.stored[0].nbytes].view(np.float16).reshape(shape)
        for position, row in enumerate(rows):
            raw[position] = self.stored[row]
            norms[position] = self._norms[row]
        decode(CODECS["float16"], raw, self._scale[rows], z)
