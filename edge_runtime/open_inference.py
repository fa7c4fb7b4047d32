"""The Open Inference Protocol (KServe v2) on the wire: messages to bytes and back, pure functions.

A message is a JSON object with a list of tensors, `inputs` or `outputs`. A tensor's entries lie in
the JSON under `data`, or, with the binary tensor extension, behind the JSON in the order of the
list: little-endian, C order, no padding; a BYTES element is a u32 length and the bytes. The header
Inference-Header-Content-Length then says where the JSON ends.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Union

import numpy as np

from edge_runtime import formats
from edge_runtime.errors import ProtocolError

Array = np.ndarray[Any, Any]
Value = Union[Array, "list[bytes]"]  # the list is a tensor of BYTES, flat

JSON_LENGTH = "Inference-Header-Content-Length"
BINARY_EXTENSION = "binary_tensor_data"
DTYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("u1"),
    "INT8": np.dtype("i1"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_TENSORS = 16
MAX_NAME = 100
MAX_DIMENSIONS = 8
MAX_ENTRIES = 1 << 40  # also where another dimension is 0
MAX_JSON_BEFORE_TENSORS = 1 << 20


@dataclass(frozen=True)
class Message:
    """A parsed request or answer: its JSON, and its tensors by name."""

    content: formats.Json
    tensors: dict[str, Value]


def parse(body: bytes, json_length: str | None, tensors: str) -> Message:
    """Parses a whole body; `tensors` is "inputs" or "outputs", and may be missing in the JSON.

    Args:
        json_length: the header Inference-Header-Content-Length, None where there is none.

    Raises:
        ProtocolError: not such a message, or sizes that do not add up exactly.
    """
    end = len(body) if json_length is None else _json_end(json_length, len(body))
    try:
        content = formats.loads(body[:end])
    except (ValueError, RecursionError):
        raise ProtocolError("the JSON of the message cannot be parsed") from None
    if not isinstance(content, dict):
        raise ProtocolError("the message must be a JSON object")
    listed = content.get(tensors, [])
    if not isinstance(listed, list) or len(listed) > MAX_TENSORS:
        raise ProtocolError(f"{tensors!r} must be a list of at most {MAX_TENSORS} tensors")
    found: dict[str, Value] = {}
    rest = memoryview(body)[end:]
    for entry in listed:
        name, datatype, shape, size = _described(entry, tensors)
        if name in found:
            raise ProtocolError(f"{tensors} has two tensors of the name {name!r}")
        if size is None:
            found[name] = _from_json(entry.get("data"), name, datatype, shape)
            continue
        if size > len(rest):
            raise ProtocolError(
                f"tensor {name!r} should have {size} bytes behind the JSON, {len(rest)} are there"
            )
        found[name] = _from_binary(rest[:size], name, datatype, shape)
        rest = rest[size:]
    if len(rest):
        raise ProtocolError(f"{len(rest)} bytes are left behind the last tensor")
    return Message(content, found)


def build(
    content: Mapping[str, Any], tensors: str, values: Mapping[str, Value], in_json: Sequence[str]
) -> tuple[bytes, int | None]:
    """(body, length of its JSON, or None where the JSON is all) of a message.

    Args:
        content: the other entries of the JSON object.
        in_json: names of the tensors to put into the JSON; the others follow it as binary.
    """
    listed: list[formats.Json] = []
    binary: list[bytes | memoryview] = []
    for name, value in values.items():
        shape = [len(value)] if isinstance(value, list) else list(value.shape)
        datatype = "BYTES" if isinstance(value, list) else NAMES[value.dtype]
        entry: formats.Json = {"name": name, "datatype": datatype, "shape": shape}
        if name in in_json:
            entry["data"] = _to_json(value)
        else:
            binary.append(_to_binary(value))
            entry["parameters"] = {"binary_data_size": memoryview(binary[-1]).nbytes}
        listed.append(entry)
    text = json.dumps({**content, tensors: listed}, allow_nan=False).encode()
    if not binary:
        return text, None
    text += b" " * (-len(text) % 8)  # so that the first tensor can be read where it lies
    return b"".join([text, *binary]), len(text)


def parameters(content: Mapping[str, Any]) -> formats.Json:
    """The `parameters` of a request, an answer or a tensor; empty where there are none."""
    found = content.get("parameters", {})
    if not isinstance(found, dict):
        raise ProtocolError("'parameters' must be a JSON object")
    return found


def _json_end(text: str, total: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 2 <= int(text) <= total):
        raise ProtocolError(f"{JSON_LENGTH} must be from 2 to the length of the body, {total}")
    if int(text) > MAX_JSON_BEFORE_TENSORS:
        raise ProtocolError(f"{JSON_LENGTH} must be at most {MAX_JSON_BEFORE_TENSORS}")
    return int(text)


def _described(entry: Any, tensors: str) -> tuple[str, str, tuple[int, ...], int | None]:
    """(name, datatype, shape, bytes behind the JSON or None) of one entry of the list."""
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise ProtocolError(
            f"an entry of {tensors!r} is no object with a name of at most {MAX_NAME} characters"
        )
    datatype, shape = entry.get("datatype"), entry.get("shape")
    if not isinstance(datatype, str) or datatype not in (*DTYPES, "BYTES"):
        known = ", ".join((*DTYPES, "BYTES"))
        raise ProtocolError(f"tensor {name!r}: datatype must be one of {known}")
    if not (
        isinstance(shape, list)
        and 1 <= len(shape) <= MAX_DIMENSIONS
        and all(type(n) is int and n >= 0 for n in shape)
        and math.prod(n or 1 for n in shape) <= MAX_ENTRIES
    ):
        raise ProtocolError(f"tensor {name!r}: shape must be a list of sizes")
    size = parameters(entry).get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0 or "data" in entry):
        raise ProtocolError(
            f"tensor {name!r}: binary_data_size must be a number of bytes, and excludes 'data'"
        )
    return name, datatype, tuple(shape), size


def _from_binary(data: memoryview, name: str, datatype: str, shape: tuple[int, ...]) -> Value:
    if datatype == "BYTES":
        return _split(data, name, math.prod(shape))
    expected = math.prod(shape) * DTYPES[datatype].itemsize
    if len(data) != expected:
        raise ProtocolError(
            f"tensor {name!r}: {datatype} {list(shape)} takes {expected} bytes, "
            f"binary_data_size is {len(data)}"
        )
    return np.frombuffer(data, DTYPES[datatype]).reshape(shape)


def _split(data: memoryview, name: str, count: int) -> list[bytes]:
    """The elements of a BYTES tensor."""
    elements: list[bytes] = []
    while len(data) >= 4 and len(elements) < count:
        (length,) = struct.unpack("<I", data[:4])
        if length > len(data) - 4:
            break
        elements.append(bytes(data[4 : 4 + length]))
        data = data[4 + length :]
    if len(data) or len(elements) != count:
        raise ProtocolError(f"tensor {name!r}: its bytes are not {count} elements with lengths")
    return elements


def _from_json(data: Any, name: str, datatype: str, shape: tuple[int, ...]) -> Value:
    if datatype == "FP16":
        raise ProtocolError(f"tensor {name!r}: FP16 has no JSON form, send it as binary")
    flat = _flatten(data, name, shape)
    if datatype == "BYTES":
        try:
            return [base64.b64decode(element, validate=True) for element in flat]
        except (TypeError, ValueError, binascii.Error):
            raise ProtocolError(f"tensor {name!r}: BYTES in JSON are base64 strings") from None
    dtype = DTYPES[datatype]
    if not set(map(type, flat)) <= ({int, float} if dtype.kind == "f" else {int}):
        raise ProtocolError(f"tensor {name!r}: an entry is no number of type {datatype}")
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    if flat and not (min(flat) >= float(limits.min) and max(flat) <= float(limits.max)):
        raise ProtocolError(f"tensor {name!r}: an entry is out of the range of {datatype}")
    return np.array(flat, dtype).reshape(shape)


def _flatten(data: Any, name: str, shape: tuple[int, ...]) -> list[Any]:
    """The entries of `data`, which is nested as `shape` says, or flat."""
    wrong = ProtocolError(f"tensor {name!r}: 'data' must be a list with the entries of its shape")
    if not isinstance(data, list):
        raise wrong
    if len(shape) > 1 and data and isinstance(data[0], list):
        if len(data) != shape[0]:
            raise wrong
        for size in shape[1:]:
            if not all(isinstance(row, list) and len(row) == size for row in data):
                raise wrong
            data = list(chain.from_iterable(data))
    if len(data) != math.prod(shape):
        raise wrong
    return data


def _to_binary(value: Value) -> bytes | memoryview:
    if isinstance(value, list):
        return b"".join(struct.pack("<I", len(one)) + one for one in value)
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8).data


def _to_json(value: Value) -> list[Any]:
    if isinstance(value, list):
        return [base64.b64encode(one).decode() for one in value]
    if value.dtype == DTYPES["FP16"]:
        raise ProtocolError("FP16 has no JSON form, ask for it as binary")
    return list(value.reshape(-1).tolist())
