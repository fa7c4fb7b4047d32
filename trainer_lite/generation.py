"""One checkpoint file: written, read, and found whole and of this run, or not.

Arrays are written straight from the run's buffers and read straight into them, so that a
checkpoint takes next to no memory. Its CRC-32 is checked before anything is taken from it.
docs/formats.md says what it holds.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge_runtime import formats, tensorfile
from edge_runtime.allocate import allocate
from edge_runtime.errors import FormatError, MismatchError
from trainer_lite.progress import COLUMNS, Progress
from trainer_lite.provenance import Facts, differences

Array = np.ndarray[Any, Any]

PLAN = {"tile": 1, "lanes": 1, "layout": 0}  # least values
PIECE_BYTES = 1 << 16


class Position(Protocol):
    """How far a run has come: a Progress, or that of a sweep."""

    @property
    def step(self) -> int: ...

    def to_json(self) -> formats.Json: ...

    def history_array(self) -> Array: ...


@dataclass(frozen=True)
class Generation:
    """One file, found sound."""

    path: Path
    tensors: Mapping[str, tensorfile.TensorInfo]
    progress: Any  # a Progress, or that of a sweep
    facts: Facts
    plan: dict[str, int]

    def check(self, facts: Facts) -> None:
        """MismatchError where it belongs to another run; says in what they differ."""
        found = differences(self.facts, facts)
        if found:
            raise MismatchError(
                f"{self.path} is of another run: {found}. Give the options and features it was "
                f"started with, or another --checkpoint folder; --force without --resume starts "
                f"afresh"
            )

    def read(self, arrays: Mapping[str, Array]) -> None:
        """Fills the run's arrays.

        Raises:
            FormatError: they are not those of the file.
        """
        found = {n: (i.dtype, i.shape) for n, i in self.tensors.items() if n != "history"}
        if found != {name: (array.dtype, array.shape) for name, array in arrays.items()}:
            raise FormatError(f"{self.path}: its tensors are not those of this run")
        with open(self.path, "rb", buffering=0) as file:
            for name, array in arrays.items():
                tensorfile.read_into(file, self.tensors[name].offset, array, self.path)


def write(
    path: Path,
    arrays: Mapping[str, Array],
    progress: Position,
    facts: Facts,
    plan: Mapping[str, int],
) -> None:
    """Writes a checkpoint file, atomically; OSError where it cannot be."""
    metadata = {
        "format": formats.CHECKPOINT,
        "version": str(formats.VERSION),
        "progress": formats.canonical(progress.to_json()).decode(),
        "run": formats.canonical(facts).decode(),
        "plan": formats.canonical(plan).decode(),
    }
    tensors = {**arrays, "history": progress.history_array()}
    crc = header_crc(metadata, {name: (a.dtype, a.shape) for name, a in tensors.items()})
    for array in tensors.values():
        crc = zlib.crc32(array.reshape(-1).view(np.uint8).data, crc)
    tensorfile.write(path, tensors, {**metadata, "crc32": str(crc)})


def load(path: Path, kind: Any = Progress) -> Generation:
    """Reads all of a checkpoint file but its vectors; `kind` is what says how far it came.

    Raises:
        FormatError: not a checkpoint, damaged, or of a version not known here.
    """
    with open(path, "rb", buffering=0) as file:
        header = tensorfile.read_header(file, path)
        metadata = dict(header.metadata)
        formats.check_version(metadata, formats.CHECKPOINT, path)
        expected = metadata.pop("crc32", "")
        crc = header_crc(metadata, {n: (i.dtype, i.shape) for n, i in header.tensors.items()})
        offset, end = data_range(header, os.fstat(file.fileno()).st_size)
        piece = allocate(PIECE_BYTES).data
        while offset < end:
            part = piece[: min(PIECE_BYTES, end - offset)]
            tensorfile.fill(file, offset, part, path)
            crc, offset = zlib.crc32(part, crc), offset + len(part)
        if expected != str(crc):
            raise FormatError(f"{path}: its CRC-32 is not the one inside; it is damaged")
        info = header.tensors.get("history")
        if info is None or info.shape[1:] != (COLUMNS,) or info.dtype != np.float64:
            raise FormatError(f"{path}: its history is missing or damaged")
        history = np.empty(info.shape, info.dtype)
        tensorfile.read_into(file, info.offset, history, path)
    parts = {
        key: formats.parse_json(metadata.get(key, "").encode(), path, f"entry {key!r}")
        for key in ("progress", "run", "plan")
    }
    return Generation(
        path,
        header.tensors,
        kind.from_json(parts["progress"], history, path),
        parts["run"],
        {key: formats.whole(parts["plan"], key, least, path) for key, least in PLAN.items()},
    )


def header_crc(
    metadata: Mapping[str, str], layout: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
) -> int:
    """CRC-32 of what a file says beside its tensors' bytes; theirs are added to it."""
    return zlib.crc32(tensorfile.encode_header(layout, metadata))


def data_range(header: tensorfile.Header, size: int) -> tuple[int, int]:
    """Where the tensors of a file lie: its header checked that they have no holes."""
    return min((info.offset for info in header.tensors.values()), default=size), size
