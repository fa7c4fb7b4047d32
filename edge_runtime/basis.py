"""A basis: the few directions in which tokens are stored and trained on, instead of all channels.

The matrix (width, embed_dim) maps a token z to y = matrix z. Its rows sum to 0, so that z's mean
over channels, which LayerNorm ignores, is left out; its columns sum to 0, so that y has mean 0;
and it keeps lengths and angles of what lies in its directions: matrix^T y is that part of z. So
LayerNorm of y is LayerNorm of the reconstruction in other coordinates (docs/adaptor.md).
`trainer_lite/directions.py` fits one; devices and servers only multiply by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import formats, tensorfile
from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import FormatError, MismatchError

Array = np.ndarray[Any, Any]

FILE = "basis.safetensors"
TENSOR = "matrix"
ORTHONORMAL = 1e-3  # by how much the squared length of a vector in the basis may change


@dataclass(frozen=True, eq=False)
class Basis:
    """`matrix`, float32 (width, embed_dim); two are the same where their `identity` is."""

    matrix: Array

    @property
    def width(self) -> int:
        """Numbers a token takes in this basis: its directions, and one more."""
        return len(self.matrix)

    @property
    def embed_dim(self) -> int:
        """Numbers a token has outside of it."""
        return int(self.matrix.shape[1])

    @cached_property
    def identity(self) -> str:
        """sha256 of the matrix's bytes, row after row, float32 little-endian."""
        return formats.small_sha256(np.ascontiguousarray(self.matrix, "<f4").tobytes())

    def apply(self, features: Array) -> Array:
        """float32 [rows, tokens, embed_dim] in the basis, [rows, tokens, width].

        Raises:
            MismatchError: features of another width.
        """
        self.check_width(features.shape[2])
        out = np.empty((*features.shape[:2], self.width), np.float32)
        for image, projected in zip(features, out):  # one by one: the same bits in any batch
            np.matmul(image, self.matrix.T, out=projected)
        return out

    def check_width(self, embed_dim: int) -> None:
        """MismatchError where features of that width cannot be put into this basis."""
        if embed_dim != self.embed_dim:
            raise MismatchError(
                f"this basis is of features {self.embed_dim} wide, these are {embed_dim}; they "
                f"come from another backbone"
            )

    def save(self, path: Path) -> None:
        """Writes the file that feature folders hold."""
        metadata = {"format": formats.BASIS, "version": str(formats.VERSION)}
        tensorfile.write(path, {TENSOR: self.matrix}, metadata)

    @classmethod
    def load(cls, path: Path) -> Basis:
        """Reads the file of a feature folder.

        Raises:
            FormatError: not such a file, damaged, or its matrix is no basis.
        """
        tensors, metadata = tensorfile.read(path)
        formats.check_version(metadata, formats.BASIS, path)
        if set(tensors) != {TENSOR}:
            raise FormatError(f"{path}: expected one tensor, {TENSOR!r}")
        return checked(tensors[TENSOR], path)

    def to_json(self) -> formats.Json:
        """The basis as an entry of a graph's metadata."""
        import base64  # few runs have a basis, and a module is memory

        data = np.ascontiguousarray(self.matrix, "<f4").tobytes()
        return {
            "identity": self.identity,
            "shape": list(self.matrix.shape),
            "float32": base64.b64encode(data).decode("ascii"),
        }

    @classmethod
    def from_json(cls, content: formats.Json, path: Path) -> Basis:
        """Takes back what `to_json` gave; FormatError where it is damaged."""
        import base64

        text = formats.field(content, "float32", str, path)
        shape = formats.field(content, "shape", list, path)
        try:
            flat = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
            basis = checked(flat.reshape([int(n) for n in shape]).astype(np.float32), path)
        except (TypeError, ValueError, OverflowError):  # binascii.Error is a ValueError
            raise FormatError(f"{path}: its basis is damaged; make it again") from None
        return named(basis, content.get("identity"), path)


def checked(matrix: Array, path: Path) -> Basis:
    """A matrix that was read, as a basis; FormatError where it is none."""
    if not (
        matrix.dtype == np.float32
        and matrix.ndim == 2
        and 2 <= matrix.shape[0] <= matrix.shape[1]
        and np.isfinite(matrix).all()
        and keeps_lengths(matrix)
    ):
        raise FormatError(
            f"{path}: its basis is no float32 matrix that keeps lengths; it is damaged, make it "
            f"again"
        )
    return Basis(matrix)


def keeps_lengths(matrix: Array) -> bool:
    """Whether matrix matrix^T is the identity but for the mean, and no row has one."""
    with np.errstate(all="ignore"):
        gram = np.matmul(matrix, matrix.T)
        gram += np.float32(1 / len(matrix))
        gram[np.diag_indices(len(matrix))] -= 1
        sums = matrix.sum(axis=1)
        return bool(np.abs(gram).max() < ORTHONORMAL and np.abs(sums).max() < ORTHONORMAL)


def fitting(basis: Basis, config: AdaptorConfig, path: Path) -> Basis:
    """`basis`, where the adaptor takes as many numbers a token as it has; else FormatError."""
    if basis.width != config.embed_dim:
        raise FormatError(
            f"{path}: a basis of {basis.width}, and an adaptor of features {config.embed_dim} wide"
        )
    return basis


def named(basis: Basis, identity: Any, path: Path) -> Basis:
    """`basis`, where it has the identity that its file says; else FormatError."""
    if basis.identity != identity:
        raise FormatError(f"{path}: its basis is not the one that it names; it was altered")
    return basis
