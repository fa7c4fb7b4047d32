"""One split of a feature folder, read row by row from its shards.

Shards are read into buffers, not mapped: page cache does not then count as this process's memory.
"""

from __future__ import annotations

import math
import os
import weakref
import zlib
from _thread import allocate_lock
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from edge_runtime import formats, tensorfile
from edge_runtime.allocate import allocate
from edge_runtime.codecs import Codec, decode, scratch_layout
from edge_runtime.config import IGNORED
from edge_runtime.errors import DataError, FormatError

if TYPE_CHECKING:
    from edge_runtime.features import FeatureFolder
    from edge_runtime.masks import MaskShape

Array = np.ndarray[Any, Any]

MAX_OPEN_SHARDS = 64
NORMS = np.dtype("<f4")
PIECE_BYTES = 1 << 16  # of a shard that is checked


def shard_layout(
    codec: Codec, rows: int, tokens: int, embed_dim: int, masks: MaskShape | None = None
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Name -> (dtype, shape) of every tensor that a shard must hold."""
    layout: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        "norms": (NORMS, (rows, tokens)),
        "labels": (np.dtype("<i4"), (rows,)),
        "features": (codec.dtype, (rows, tokens, codec.stored_dim(embed_dim))),
    }
    scale = codec.scale_shape(rows, tokens)
    if scale is not None:
        layout["scale"] = (np.dtype("<f4"), scale)
    if masks is not None:
        layout["labels"] = (np.dtype("u1"), (rows, masks.side**2))
        layout["masks"] = (np.dtype("u1"), (rows, masks.size, masks.size))
    return layout


@dataclass(frozen=True)
class Shard:
    """One shard as its manifest describes it."""

    path: Path
    rows: int
    nbytes: int
    crc32: int
    sha256: str


class FeatureSplit:
    """One split of a feature folder; a FeatureSource.

    Each shard's CRC-32, and that all it holds is finite, is checked the first time it is used.
    """

    def __init__(self, folder: FeatureFolder, name: str, shards: list[Shard], rms: float):
        self.folder, self.name, self.shards, self.rms = folder, name, shards, rms
        self.tokens, self.embed_dim = folder.tokens, folder.embed_dim
        self.mask_size = 0 if folder.masks is None else folder.masks.size
        self.rows = sum(shard.rows for shard in shards)
        self._starts = [0, *accumulate(shard.rows for shard in shards)]
        self._open: dict[int, tuple[BinaryIO, tensorfile.Header]] = {}
        weakref.finalize(self, close_all, self._open)
        self._checked: set[int] = set()
        self._labels: Array | None = None
        self._lock = allocate_lock()

    @property
    def labels(self) -> Array:
        if self._labels is None:
            parts = [self._tensor(index, "labels") for index in range(len(self.shards))]
            labels = np.concatenate(parts)
            known = labels[labels != IGNORED] if self.mask_size else labels
            if known.size and (known.min() < 0 or known.max() >= len(self.folder.classes)):
                raise FormatError(
                    f"{self.folder.path}: a label of split {self.name} names no class; "
                    f"run extract again"
                )
            self._labels = labels
        return self._labels

    def check(self) -> None:
        """Reads every shard once, by reading the labels."""
        _ = self.labels

    @property
    def paths(self) -> list[str]:
        """Image path of every row, relative to the image folder."""
        paths: list[str] = []
        for index, shard in enumerate(self.shards):
            _, header = self._file(index)
            try:
                listed = formats.loads(header.metadata["paths"])
            except (KeyError, ValueError, RecursionError):
                listed = None
            if not isinstance(listed, list) or len(listed) != shard.rows:
                raise FormatError(f"{shard.path}: metadata entry 'paths' does not list its rows")
            paths += [str(path) for path in listed]
        return paths

    def scratch_bytes(self, images: int) -> int:
        return scratch_layout(self.folder.codec, images, self.tokens, self.embed_dim)[1]

    def read(self, rows: Array, z: Array, norms: Array, scratch: Array) -> None:
        decode(self.folder.codec, *self.read_stored(rows, norms, scratch), z)

    def read_stored(self, rows: Array, norms: Array, scratch: Array) -> tuple[Array, Array | None]:
        """(features as stored, scale or None) of some rows, views of `scratch`; fills norms."""
        codec, count = self.folder.codec, len(rows)
        start, end = scratch_layout(codec, count, self.tokens, self.embed_dim)
        shape = (count, self.tokens, codec.stored_dim(self.embed_dim))
        stored = scratch[: math.prod(shape) * codec.dtype.itemsize].view(codec.dtype).reshape(shape)
        scale_shape, scale = codec.scale_shape(count, self.tokens), None
        narrow = norms if norms.dtype == NORMS else np.empty(norms.shape, NORMS)
        wanted = [("features", stored), ("norms", narrow)]
        if scale_shape is not None:
            scale = scratch[start:end].view(np.float32).reshape(scale_shape)
            wanted.append(("scale", scale))
        views = [(name, a.reshape(-1).view(np.uint8).data) for name, a in wanted]
        with self._lock:  # another thread's read could close the file
            for position, row in enumerate(rows.tolist()):
                index = bisect_right(self._starts, row) - 1
                file, header = self._file(index)
                local, path = row - self._starts[index], self.shards[index].path
                for name, view in views:
                    size = len(view) // count
                    part = view[position * size : (position + 1) * size]
                    tensorfile.fill(file, header.tensors[name].offset + local * size, part, path)
        if narrow is not norms:
            np.copyto(norms, narrow)
        return stored, scale

    def read_masks(self, rows: Array, out: Array) -> None:
        """Fills uint8 (n, mask_size, mask_size) with the masks of some rows.

        Raises:
            FormatError: a pixel names no class.
        """
        with self._lock:
            for row, mask in zip(rows.tolist(), out):
                index = bisect_right(self._starts, row) - 1
                file, header = self._file(index)
                start = header.tensors["masks"].offset + (row - self._starts[index]) * mask.size
                tensorfile.read_into(file, start, mask, self.shards[index].path)
        pixels = out.reshape(-1)
        for start in range(0, len(pixels), PIECE_BYTES):
            piece = pixels[start : start + PIECE_BYTES]
            wrong = piece >= len(self.folder.classes)
            wrong &= piece != IGNORED
            if wrong.any():
                raise FormatError(
                    f"{self.folder.path}: a mask of split {self.name} names no class; run extract "
                    f"again"
                )

    def prefetch(self, rows: Array) -> None:
        """Has the system read these rows into its own cache, which is not this process's memory,
        while something else is computed. Only a hint."""
        codec = self.folder.codec
        width = self.tokens * codec.stored_dim(self.embed_dim) * codec.dtype.itemsize
        with self._lock:
            for row in rows.tolist() if hasattr(os, "posix_fadvise") else []:
                index = bisect_right(self._starts, row) - 1
                file, header = self._file(index)
                start = header.tensors["features"].offset + (row - self._starts[index]) * width
                os.posix_fadvise(file.fileno(), start, width, os.POSIX_FADV_WILLNEED)
                if self.mask_size:
                    size = self.mask_size**2
                    start = header.tensors["masks"].offset + (row - self._starts[index]) * size
                    os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Closes all shard files; they open again when they are read again."""
        close_all(self._open)

    def _tensor(self, index: int, name: str) -> Array:
        """One whole tensor of a shard."""
        file, header = self._file(index)
        info = header.tensors[name]
        out = np.empty(info.shape, info.dtype)
        tensorfile.read_into(file, info.offset, out, self.shards[index].path)
        return out

    def _file(self, index: int) -> tuple[BinaryIO, tensorfile.Header]:
        if index not in self._open:
            if len(self._open) >= MAX_OPEN_SHARDS:
                self.close()
            self._open[index] = self._open_shard(index)
        if index not in self._checked:
            self._checked.add(index)
            try:
                self._check(index)
            except BaseException:
                self._checked.discard(index)
                raise
        return self._open[index]

    def _open_shard(self, index: int) -> tuple[BinaryIO, tensorfile.Header]:
        shard = self.shards[index]
        try:
            file: BinaryIO = open(shard.path, "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            raise FormatError(f"{shard.path} is missing; run extract again") from None
        try:
            header = tensorfile.read_header(file, shard.path)
            formats.check_version(header.metadata, formats.SHARD, shard.path)
            folder = self.folder
            shape = (shard.rows, folder.tokens, folder.embed_dim)
            expected = shard_layout(folder.codec, *shape, folder.masks)
            found = {n: (i.dtype, i.shape) for n, i in header.tensors.items()}
            if found != expected:
                raise FormatError(f"{shard.path}: its tensors are not those of its manifest")
        except BaseException:
            file.close()
            raise
        return file, header

    def _check(self, index: int) -> None:
        shard = self.shards[index]
        file, _ = self._open[index]
        file.seek(0)
        crc, piece = 0, allocate(PIECE_BYTES).data
        while count := file.readinto(piece):  # type: ignore[attr-defined]
            crc = zlib.crc32(piece[:count], crc)
        if crc != shard.crc32:
            raise FormatError(f"{shard.path}: its CRC-32 is not the manifest's; run extract again")
        if not self._finite(index):
            raise DataError(
                f"{shard.path} holds NaN or infinite features; extract again from sound images"
            )

    def _finite(self, index: int) -> bool:
        """Whether a shard is free of NaN and infinities, which decoding could hide."""
        file, header = self._open[index]
        piece = allocate(PIECE_BYTES)
        for info in header.tensors.values():
            for start in range(0, info.nbytes if info.dtype.kind == "f" else 0, PIECE_BYTES):
                part = piece[: min(PIECE_BYTES, info.nbytes - start)].view(info.dtype)
                tensorfile.read_into(file, info.offset + start, part, self.shards[index].path)
                if not np.isfinite(part).all():
                    return False
        return True


def close_all(opened: dict[int, tuple[BinaryIO, tensorfile.Header]]) -> None:
    """Closes shard files and forgets them."""
    for file, _ in opened.values():
        file.close()
    opened.clear()
