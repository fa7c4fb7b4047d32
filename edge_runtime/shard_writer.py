"""Feature shards: filled batch by batch in their stored form, written, described, found again.

A split's list of images is consumed in order: a shard takes images until its rows are full, then
the unreadable ones that follow its last row. So finished shards tell where the next one starts.
Batches never cross a shard, and `describe` reads new and resumed shards alike: an interrupted run,
repeated, gives the same bytes as one that was not.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import codecs, formats, tensorfile
from edge_runtime.backbone_base import BackboneBase
from edge_runtime.codecs import Codec
from edge_runtime.errors import DataError, FormatError
from edge_runtime.feature_split import shard_layout
from edge_runtime.image_folder import ImageFile
from edge_runtime.mask_folder import load_mask
from edge_runtime.masks import MaskShape, token_labels
from edge_runtime.preprocess import load_image, reason

Array = np.ndarray[Any, Any]

SHARD_BYTES = 16 << 20
MAX_ROWS = 4096  # bounds the list of paths in the header where feature maps are tiny
MAX_LIST_BYTES = tensorfile.MAX_HEADER_BYTES - (64 << 10)
PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Shard:
    """A finished shard: what the manifest says of it, and which images it used up."""

    file: str
    rows: int
    bytes: int
    crc32: int
    sha256: str
    paths: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    sum_squares: float

    def entry(self) -> formats.Json:
        """Its entry in the manifest."""
        return {key: getattr(self, key) for key in ("file", "rows", "bytes", "crc32", "sha256")}


def shard_name(split: str, index: int) -> str:
    return f"{split}-{index:05d}.safetensors"


def rows_per_shard(bytes_per_image: int) -> int:
    """Rows of every shard of a folder but the last of a split: about 16 MiB, at least one image."""
    return min(max(1, SHARD_BYTES // bytes_per_image), MAX_ROWS)


def shard_ranges(readable: Sequence[bool], capacity: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the images that each shard of a split uses up, from which can be read."""
    start = 0
    while start < len(readable):
        stop = rows = 0
        for stop in range(start, len(readable) + 1):
            if stop == len(readable) or (readable[stop] and rows == capacity):
                break
            rows += readable[stop]
        yield start, stop
        start = stop


class ShardBuffer:
    """Collects up to `capacity` images; features are encoded as they come.

    With `masks`, images have masks instead of labels.
    """

    def __init__(
        self,
        codec: Codec,
        capacity: int,
        tokens: int,
        embed_dim: int,
        masks: MaskShape | None = None,
    ) -> None:
        self.codec, self.capacity, self.masks = codec, capacity, masks
        if masks is not None:
            self._masks = np.empty((capacity, masks.size, masks.size), np.uint8)
        self._shape = (tokens, embed_dim)
        stored_dim = codec.stored_dim(embed_dim)
        self._features = np.empty((capacity, tokens, stored_dim), codec.dtype)
        scale_shape = codec.scale_shape(capacity, tokens)
        self._scale = None if scale_shape is None else np.empty(scale_shape, "<f4")
        self._norms = np.empty((capacity, tokens), "<f4")
        self.clear()

    def clear(self) -> None:
        """Empties the buffer for the next shard."""
        self._labels: list[int] = []
        self._paths: list[str] = []
        self._skipped: list[tuple[str, str]] = []
        self._sums: list[float] = []

    @property
    def rows(self) -> int:
        return len(self._paths)

    @property
    def free(self) -> int:
        """How many images still fit."""
        return self.capacity - self.rows

    def add(self, features: Array, labels: Sequence[int] | Array, paths: Sequence[str]) -> None:
        """Takes float32 [n, tokens, embed_dim] with n <= free, and what goes with each image: its
        label, or its mask, uint8 [n, size, size]."""
        self.add_encoded(*codecs.encode(self.codec, features), labels, paths)

    def add_encoded(
        self,
        stored: Array,
        scale: Array | None,
        labels: Sequence[int] | Array,
        paths: Sequence[str],
    ) -> None:
        """Takes what `codecs.encode` gave for n <= free images, and what goes with each."""
        here = slice(self.rows, self.rows + len(paths))
        decoded = np.empty((len(stored), *self._shape), np.float32)
        codecs.decode(self.codec, stored, scale, decoded)
        self._features[here] = stored
        if self._scale is not None:
            self._scale[here] = scale
        self._norms[here] = codecs.token_norms(decoded)
        self._sums += [float(np.square(image, dtype=np.float64).sum()) for image in decoded]
        if self.masks is not None:
            self._masks[here] = labels
        else:
            self._labels.extend(labels)
        self._paths += paths

    def skip(self, path: str, reason: str) -> None:
        """Records an image that could not be read."""
        self._skipped.append((path, reason))

    def write(self, path: Path, split: str) -> Shard:
        """Writes the rows collected so far, at least one, and describes the file.

        Raises:
            DataError: the header would be longer than readers accept.
        """
        tensors = {"norms": self._norms[: self.rows]}
        if self._scale is not None:
            tensors["scale"] = self._scale[: self.rows]
        if self.masks is None:
            tensors["labels"] = np.array(self._labels, "<i4")
        tensors["features"] = self._features[: self.rows]
        if self.masks is not None:
            tensors["masks"] = self._masks[: self.rows]
            tensors["labels"] = token_labels(tensors["masks"], self.masks.side)
        lists = {
            "paths": formats.canonical(self._paths).decode(),
            "skipped": formats.canonical(self._skipped).decode(),
        }
        if sum(map(len, lists.values())) > MAX_LIST_BYTES:
            raise DataError(
                f"{path.name}: the names of {self.rows} images and {len(self._skipped)} unreadable "
                f"ones do not fit in its header; remove the unreadable ones, or shorten the names"
            )
        metadata = {
            **lists,
            "format": formats.SHARD,
            "version": str(formats.VERSION),
            "split": split,
            "codec": self.codec.name,
            "sum_squares": repr(math.fsum(self._sums)),
        }
        tensorfile.write(path, tensors, metadata)
        return describe(path, split, self.codec, *self._shape, self.masks)


def describe(
    path: Path,
    split: str,
    codec: Codec,
    tokens: int,
    embed_dim: int,
    masks: MaskShape | None = None,
) -> Shard:
    """Checks the header of a shard against what it should be, and hashes the file.

    Raises:
        FormatError: missing, truncated, or not a shard of this split, codec and shape.
    """
    try:
        with open(path, "rb") as file:
            header = tensorfile.read_header(file, path)
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file") from None
    metadata = header.metadata
    formats.check_version(metadata, formats.SHARD, path)
    if (metadata.get("split"), metadata.get("codec")) != (split, codec.name):
        raise FormatError(f"{path}: not a {codec.name} shard of split {split}")
    paths, skipped, sum_squares = _parse_metadata(metadata, path)
    rows = len(paths)
    found = {n: (t.dtype, t.shape) for n, t in header.tensors.items()}
    if found != shard_layout(codec, rows, tokens, embed_dim, masks):
        raise FormatError(f"{path}: tensors do not fit {rows} rows of {tokens} x {embed_dim}")
    size, crc32, sha256 = digests(path)
    return Shard(path.name, rows, size, crc32, sha256, paths, skipped, sum_squares)


def digests(path: Path) -> tuple[int, int, str]:
    """(bytes, CRC-32, sha256) of a file, read once, in pieces."""
    import hashlib

    size, crc32, sha256 = 0, 0, hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            size += len(piece)
            crc32 = zlib.crc32(piece, crc32)
            sha256.update(piece)
    return size, crc32, sha256.hexdigest()


def _parse_metadata(
    metadata: dict[str, str], path: Path
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], float]:
    """(paths, skipped, sum_squares) of a shard's header."""
    try:
        paths = json.loads(metadata["paths"])
        skipped = json.loads(metadata["skipped"])
        sum_squares = float(metadata["sum_squares"])
        if not all(isinstance(name, str) for name in paths) or not math.isfinite(sum_squares):
            raise ValueError
        return tuple(paths), tuple((str(p), str(why)) for p, why in skipped), sum_squares
    except (KeyError, TypeError, ValueError, RecursionError):
        raise FormatError(f"{path}: paths, skipped or sum_squares are missing or damaged") from None


@dataclass(frozen=True)
class SplitWriter:
    """Makes the shards of a split in `folder`, or finds them there.

    `classes` is the number of classes that masks may name, where images have masks.
    `skipped(path, reason)` hears of every unreadable image, also of those met in an earlier run;
    `advance(images, rows)` of every batch, with the rows that went through the backbone for it.
    """

    folder: Path
    root: Path
    backbone: BackboneBase
    codec: Codec
    batch_size: int
    skipped: Callable[[str, str], None]
    advance: Callable[[int, int], None]
    masks: MaskShape | None = None
    classes: int = 0

    @property
    def _tokens(self) -> int:
        """Tokens that are stored of an image."""
        return self.codec.stored_tokens(self.backbone.tokens, self.backbone.prefix_tokens)

    def write(self, split: str, files: Sequence[ImageFile]) -> list[Shard]:
        """All shards of a split, in order.

        Raises:
            DataError: no image can be read, or features are not finite.
        """
        buffer = self.buffer(files, self.capacity(files))
        shards: list[Shard] = []
        position = 0
        while position < len(files):
            shard = self.shard(buffer, split, len(shards), files, position)
            shards.append(shard)
            position += len(shard.paths) + len(shard.skipped)
        return shards

    def capacity(self, files: Sequence[ImageFile]) -> int:
        """Rows of every shard of a split but the last."""
        nbytes = self.codec.bytes_per_image(self._tokens, self.backbone.embed_dim)
        most = rows_per_shard(nbytes + (self.masks.bytes_per_image if self.masks else 0))
        return min(most, len(files))

    def buffer(self, files: Sequence[ImageFile], capacity: int) -> ShardBuffer:
        """For `shard`, again and again; no larger than `files` can fill."""
        rows = min(capacity, len(files))
        return ShardBuffer(self.codec, rows, self._tokens, self.backbone.embed_dim, self.masks)

    def shard(
        self,
        buffer: ShardBuffer,
        split: str,
        index: int,
        files: Sequence[ImageFile],
        position: int = 0,
    ) -> Shard:
        """The shard of this number, with the images of `files` from `position` on: found, or made.

        Raises:
            DataError: no image can be read, or features are not finite.
        """
        path = self.folder / shard_name(split, index)
        shard = self._find(path, split, files, position, buffer.capacity)
        if shard is None:
            self._fill(buffer, split, files, position)
            shard = buffer.write(path, split)
        return shard

    def _find(
        self, path: Path, split: str, files: Sequence[ImageFile], position: int, capacity: int
    ) -> Shard | None:
        """The shard of an earlier run that holds just what comes next in `files`, or None."""
        try:
            shape = (self._tokens, self.backbone.embed_dim)
            shard = describe(path, split, self.codec, *shape, self.masks)
        except FormatError:
            return None
        count = len(shard.paths) + len(shard.skipped)
        consumed = [file.path for file in files[position : position + count]]
        unreadable = {name for name, _ in shard.skipped}
        if (
            [name for name in consumed if name not in unreadable] != list(shard.paths)
            or [name for name in consumed if name in unreadable] != [n for n, _ in shard.skipped]
            or not (shard.rows == capacity or (shard.rows and position + count == len(files)))
        ):
            return None
        for name, why in shard.skipped:
            self.skipped(name, why)
        self.advance(count, 0)
        return shard

    def _fill(
        self, buffer: ShardBuffer, split: str, files: Sequence[ImageFile], position: int
    ) -> None:
        """Empties the buffer and fills it with the features of `files` from `position` on."""
        buffer.clear()
        batch: list[tuple[ImageFile, Array, Any]] = []
        for file in itertools.islice(files, position, None):
            try:
                pixels = load_image(self.root / file.path, self.backbone.preprocessing)
                label = self._label(file)
            except DataError as error:
                self.skipped(file.path, reason(error))
                buffer.skip(file.path, reason(error))
                self.advance(1, 0)
                continue
            if not buffer.free:
                return
            batch.append((file, pixels, label))
            if len(batch) == min(self.batch_size, buffer.free):
                self._run(buffer, batch)
                batch = []
        if batch:
            self._run(buffer, batch)
        if not buffer.rows:
            raise DataError(
                f"{split}: no image from {files[position].path} on can be read; put readable "
                f"images there, or remove these"
            )

    def _label(self, file: ImageFile) -> Any:
        """An image's class index, or its mask."""
        if not file.mask:
            return file.label
        path, image = self.root / file.mask, self.root / file.path
        return load_mask(path, image, self.backbone.preprocessing, self.classes)

    def _run(self, buffer: ShardBuffer, batch: Sequence[tuple[ImageFile, Array, Any]]) -> None:
        paths = [file.path for file, _, _ in batch]
        pixels = np.stack([one for _, one, _ in batch])
        stored, scale = self.backbone.encoded(pixels, self.codec, paths)
        labels = [label for _, _, label in batch]
        buffer.add_encoded(stored, scale, np.stack(labels) if self.masks else labels, paths)
        self.advance(len(batch), len(batch))
