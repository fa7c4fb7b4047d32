"""Principal directions of features: the basis in which they lose least at a width.

Of all bases of so many directions, this one keeps most of the squared length of the tokens that it
is fitted on, each token centred (its mean over channels, which LayerNorm ignores, left out).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from edge_runtime.basis import Basis
from edge_runtime.errors import ConfigError

Array = np.ndarray[Any, Any]


class Directions:
    """Orthonormal directions, in float64, those that keep most first.

    The same features give the same bits on the same machine: sums run in the order of the images,
    and each direction is turned so that its largest entry is positive.
    """

    def __init__(self, pieces: Iterable[Array]):
        """Args: pieces: float32 [rows, tokens, embed_dim], at least one."""
        moments = np.zeros(0)
        for piece in pieces:
            for image in piece:
                tokens = image.astype(np.float64)
                tokens -= tokens.mean(axis=1, keepdims=True)
                product = tokens.T @ tokens
                moments = product if not moments.size else moments + product
        dim = len(moments)
        self.total = float(np.trace(moments))
        # No token has anything along (1, 1, ... 1), nor may a direction: it is made the last.
        values, vectors = np.linalg.eigh(moments - (1.0 + self.total) / dim)
        self.values, vectors = values[::-1][: dim - 1], vectors[:, ::-1][:, : dim - 1]
        largest = np.abs(vectors).argmax(axis=0)
        self.vectors = vectors * np.sign(vectors[largest, np.arange(dim - 1)])

    def basis(self, width: int) -> Basis:
        """The first width - 1 directions, as a basis of that width.

        The directions are mixed by a cosine transform, so that every number of a token has its
        share of the long ones: a codec's step is the token's largest number / 127, or / 7.

        Raises:
            ConfigError: there are not so many.
        """
        check_width(width, len(self.vectors))
        return Basis(
            (self.vectors[:, : width - 1] @ cosines(width)).T.astype(np.float32, order="C")
        )

    def kept(self, width: int) -> float:
        """The share of the squared length that a basis of that width keeps."""
        return float(self.values[: width - 1].sum() / self.total) if self.total else 1.0


def check_width(width: int, embed_dim: int) -> None:
    """ConfigError where features of that width have no basis of `width`."""
    if not 2 <= width <= embed_dim:
        raise ConfigError(
            f"a basis has 2 numbers a token at least, and at most as many as these features, "
            f"{embed_dim}; not {width}"
        )


def cosines(width: int) -> Array:
    """(width - 1, width): rows orthonormal, each of sum 0. DCT-II without its constant row."""
    row, column = np.arange(1, width)[:, None], np.arange(width)[None]
    rows: Array = np.cos(np.pi * row * (column + 0.5) / width) * np.sqrt(2.0 / width)
    return rows
