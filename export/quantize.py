"""How the matrices of an adaptor's graph are stored: float32, float16, or int8 with scales.

Storage alone: a graph restores its matrices to float32 when it is loaded and computes in float32.
Quantising activations too would gain nothing here, where the products are rank-sized, and costs
accuracy: a few channels of a transformer's features are far larger than all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.codecs import FLOAT16_MAX, INT8_MAX
from edge_runtime.config import is_matrix
from edge_runtime.errors import ExportError

Array = np.ndarray[Any, Any]

QUANTIZE = ("none", "float16", "int8")


@dataclass(frozen=True)
class Stored:
    """A matrix (in, out) as stored; in int8, one scale for each index of `axis`."""

    values: Array
    scale: Array | None = None
    axis: int = 0

    def restored(self) -> Array:
        """The float32 matrix that the graph computes with."""
        values = self.values.astype(np.float32)
        if self.scale is None:
            return values
        return values * np.expand_dims(self.scale, 1 - self.axis)

    def transposed(self) -> Stored:
        """The same matrix as (out, in)."""
        return Stored(np.ascontiguousarray(self.values.T), self.scale, 1 - self.axis)


def store(matrix: Array, quantize: str, name: str) -> Stored:
    """A float32 matrix in the form asked for; int8 is symmetric, with scales on the shorter side.

    Raises:
        ExportError: an entry beyond float16.
    """
    if quantize == "none":
        return Stored(np.ascontiguousarray(matrix, np.float32))
    if quantize == "float16":
        if np.abs(matrix).max() > FLOAT16_MAX:
            raise ExportError(
                f"{name} has entries that float16 cannot hold; choose --quantize none or int8"
            )
        return Stored(np.ascontiguousarray(matrix, np.float16))
    axis = int(np.argmin(matrix.shape))
    largest = np.abs(matrix).max(axis=1 - axis)
    scale = np.maximum(largest / INT8_MAX, np.finfo(np.float32).tiny).astype(np.float32)
    values = np.rint(matrix / np.expand_dims(scale, 1 - axis)).astype(np.int8)
    return Stored(np.ascontiguousarray(values), scale, axis)


def rounded(parameters: Mapping[str, Array], quantize: str, pools: int = 1) -> dict[str, Array]:
    """An adaptor's parameters with every matrix as the graph of that storage restores it.

    Args:
        pools: pooled vectors that the head sees; the graph has a matrix of its own for each.
    """
    found = {}
    for name, array in parameters.items():
        if name == "head.weight":
            parts = np.split(array, pools, axis=1)
            found[name] = np.concatenate([_rounded(name, part, quantize) for part in parts], 1)
        else:
            found[name] = _rounded(name, array, quantize) if is_matrix(name) else array
    return found


def _rounded(name: str, array: Array, quantize: str) -> Array:
    if array.ndim == 3:
        return np.stack([_rounded(name, matrix, quantize) for matrix in array])
    if name == "blocks.out":  # (in, out) as it is; the others are kept transposed
        return store(array, quantize, name).restored()
    return np.ascontiguousarray(store(array.T, quantize, name).restored().T)
