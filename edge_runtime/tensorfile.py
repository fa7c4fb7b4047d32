"""safetensors, read and written with numpy and the standard library.

The format is that of https://github.com/huggingface/safetensors: u64 header length, JSON header,
tensors without holes. Tests check both directions against that library.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edge_runtime import atomic
from edge_runtime.errors import FormatError

Array = np.ndarray[Any, Any]

MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 32  # numpy 1 knows no more
MAX_ENTRIES = 1 << 40  # also where another dimension is 0, which numpy does not forgive
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies in its file; `offset` counts from the start of the file, in bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Header:
    """The parsed head of a tensor file."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def encode_header(
    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """The bytes before the first tensor, for tensors that follow each other in this order."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Writes arrays of any memory layout to one file, atomically, in the order given."""
    little = {name: np.asarray(a, a.dtype.newbyteorder("<")) for name, a in tensors.items()}
    with atomic.write_file(path) as file:
        file.write(encode_header({n: (a.dtype, a.shape) for n, a in little.items()}, metadata))
        for array in little.values():
            file.write(np.ascontiguousarray(array).data)


def read_header(file: BinaryIO, path: Path) -> Header:
    """Parses and checks the header of an open file.

    Raises:
        FormatError: not a safetensors file, truncated, with holes, or with dtypes we do not use.
    """
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise FormatError(f"{path}: not a safetensors file, or cut off in its header")
    header = _parse(file.read(length), path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{path}: header metadata must map strings to strings")
    tensors: dict[str, TensorInfo] = {}
    position = 8 + length
    for name, entry in sorted(header.items(), key=lambda item: _start(item[1], path)):
        info = _tensor_info(entry, position, 8 + length, path)
        tensors[name] = info
        position += info.nbytes
    if position != size:
        raise FormatError(
            f"{path}: the header announces {position} bytes, the file has {size}; it is truncated "
            f"or altered, make it again"
        )
    return Header(tensors, metadata)


def read(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Reads a whole file: (tensors by name, metadata)."""
    try:
        with open(path, "rb") as file:
            header = read_header(file, path)
            tensors = {}
            for name, info in header.tensors.items():
                tensors[name] = np.empty(info.shape, info.dtype)
                read_into(file, info.offset, tensors[name], path)
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise FormatError(f"{path} is a folder; a safetensors file was expected") from None
    return tensors, header.metadata


def read_into(file: BinaryIO, offset: int, out: Array, path: Path) -> None:
    """Fills the contiguous array `out` with the bytes at `offset`; a short file is an error."""
    fill(file, offset, out.reshape(-1).view(np.uint8).data, path)


def fill(file: BinaryIO, offset: int, view: memoryview, path: Path) -> None:
    """Fills `view` with the bytes at `offset`; several threads may read one file."""
    while view:
        try:
            count = os.preadv(file.fileno(), [view], offset)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None  # with its name
        if not count:
            raise FormatError(f"{path}: ends {len(view)} bytes early; it is truncated")
        view, offset = view[count:], offset + count


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(data)
    except (ValueError, RecursionError):
        raise FormatError(f"{path}: not a safetensors file (its header is not JSON)") from None
    if not isinstance(header, dict):
        raise FormatError(f"{path}: not a safetensors file (its header is not an object)")
    return header


def _start(entry: Any, path: Path) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (
        isinstance(offsets, list) and len(offsets) == 2 and all(type(o) is int for o in offsets)
    ):
        raise FormatError(f"{path}: a tensor of the header has no valid data_offsets")
    return offsets[0], offsets[1]


def _tensor_info(entry: Any, position: int, data_start: int, path: Path) -> TensorInfo:
    """Checks one header entry against where the tensor before it ended."""
    start, end = _start(entry, path)
    shape, dtype = entry.get("shape"), DTYPES.get(str(entry.get("dtype")))
    if dtype is None:
        raise FormatError(f"{path}: tensor dtype {entry.get('dtype')!r} is not used by edgetune")
    if not (isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)):
        raise FormatError(f"{path}: a tensor of the header has no valid shape")
    if len(shape) > MAX_DIMENSIONS or math.prod(n or 1 for n in shape) > MAX_ENTRIES:
        raise FormatError(f"{path}: a tensor of the header has more entries than edgetune reads")
    info = TensorInfo(dtype, tuple(shape), position)
    if data_start + start != position or end - start != info.nbytes:
        raise FormatError(f"{path}: tensors overlap, leave holes or have a wrong size")
    return info
