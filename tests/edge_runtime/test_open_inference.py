"""Messages of the Open Inference Protocol: there and back, and everything malformed refused."""

from __future__ import annotations

import contextlib
import json
import random
import struct
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import ProtocolError
from edge_runtime.open_inference import MAX_JSON_BEFORE_TENSORS, build, parse

Array = np.ndarray[Any, Any]

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
FLOATS = np.array([[1.5, -0.1, 3e-39], [np.float32(1 / 3), 3.4e38, 0.0]], np.float32)
VALUES: dict[str, Any] = {
    "pixels": PIXELS,
    "floats": FLOATS,
    "halves": FLOATS[:, ::2].clip(-9, 9).astype(np.float16),
    "signed": np.array([-128, 127], np.int8),
    "files": [b"", b"\xff\x00\n", b"abc"],
    "none": np.empty((0, 4), np.float32),
}


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        return bool(found == expected)
    return found.dtype == expected.dtype and np.array_equal(found, expected)


def test_binary_there_and_back() -> None:
    body, length = build({"id": "7"}, "inputs", VALUES, in_json=[])
    assert length is not None
    message = parse(body, str(length), "inputs")
    assert message.content["id"] == "7"
    assert list(message.tensors) == list(VALUES)
    assert all(same(message.tensors[name], value) for name, value in VALUES.items())


def test_json_there_and_back() -> None:
    values = {name: value for name, value in VALUES.items() if name != "halves"}
    body, length = build({}, "outputs", values, in_json=list(values))
    assert length is None
    message = parse(body, None, "outputs")
    assert all(same(message.tensors[name], value) for name, value in values.items())


def test_the_bytes_are_those_of_the_specification() -> None:
    body, length = build({}, "inputs", {"x": np.array([1, 2], np.float32)}, in_json=[])
    assert length is not None
    entry = json.loads(body[:length])["inputs"][0]
    assert entry == {
        "name": "x",
        "datatype": "FP32",
        "shape": [2],
        "parameters": {"binary_data_size": 8},
    }
    assert body[length:] == struct.pack("<2f", 1, 2)


def test_nested_json_data_is_read_as_flat() -> None:
    nested = {"name": "x", "datatype": "UINT8", "shape": list(PIXELS.shape), "data": None}
    for data in (PIXELS.tolist(), PIXELS.reshape(-1).tolist()):
        body = json.dumps({"inputs": [{**nested, "data": data}]}).encode()
        assert np.array_equal(parse(body, None, "inputs").tensors["x"], PIXELS)


def tensor(**changes: Any) -> dict[str, Any]:
    found = {"name": "x", "datatype": "UINT8", "shape": [2, 2], "data": [1, 2, 3, 4], **changes}
    return {key: value for key, value in found.items() if value is not ...}


BAD_ENTRIES: list[Any] = [
    7,
    tensor(name=...),
    tensor(name=["x"]),
    tensor(name="x" * 101),
    tensor(datatype="INT64"),
    tensor(datatype=["UINT8"]),
    tensor(datatype=...),
    tensor(shape=...),
    tensor(shape=[]),
    tensor(shape=4),
    tensor(shape=[2, -2]),
    tensor(shape=[2, 2.0]),
    tensor(shape=[True, 4]),
    tensor(shape=[1] * 9),
    tensor(shape=[1 << 62, 1 << 62]),
    tensor(shape=[0, 1 << 62]),
    tensor(data=...),
    tensor(data=[1, 2, 3]),
    tensor(data=[1, 2, 3, 4, 5]),
    tensor(data=[[1, 2], [3]]),
    tensor(data=[[1, 2, 3], [4]]),
    tensor(data=[[[1], 2], [3, 4]]),
    tensor(data=[1, 2, 3, 256]),
    tensor(data=[1, 2, 3, -1]),
    tensor(data=[1, 2, 3, 1.5]),
    tensor(data=[1, 2, 3, True]),
    tensor(data=[1, 2, 3, "4"]),
    tensor(data=[1, 2, 3, None]),
    tensor(data={"0": 1}),
    tensor(datatype="FP16"),
    tensor(datatype="FP32", data=[1, 2, 3, 1e39]),
    tensor(datatype="BYTES", data=["a", "b", "c", "d"]),
    tensor(datatype="BYTES", data=[1, 2, 3, 4]),
    tensor(parameters=3),
    tensor(parameters={"binary_data_size": 0}),
    tensor(data=..., parameters={"binary_data_size": "4"}),
    tensor(data=..., parameters={"binary_data_size": -4}),
    tensor(data=..., parameters={"binary_data_size": True}),
]


@pytest.mark.parametrize("entry", BAD_ENTRIES, ids=str)
def test_malformed_tensors_are_refused(entry: Any) -> None:
    with pytest.raises(ProtocolError):
        parse(json.dumps({"inputs": [entry]}).encode(), None, "inputs")


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"", None),
        (b"null", None),
        (b"[]", None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b'{"inputs": {}}', None),
        (b'{"inputs": null}', None),
        (b'{"a": NaN}', None),
        (b'{"a": 1e999}', None),
        (b'{"a": ' + b"9" * 5000 + b"}", None),
        (json.dumps({"inputs": [tensor()] * 2}).encode(), None),
        (json.dumps({"inputs": [tensor(name=str(n)) for n in range(17)]}).encode(), None),
        (b"{} ", "2"),
        (b"{}", "3"),
        (b"{}", "0"),
        (b"{}", "-2"),
        (b"{}", "2.0"),
        (b"{}", " 2"),
        (b"{}", ""),
        (b"{}", "9" * 30),
        (b"{}", "²"),
        (b"{}" + b" " * MAX_JSON_BEFORE_TENSORS, str(MAX_JSON_BEFORE_TENSORS + 1)),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_malformed_bodies_are_refused(body: bytes, length: str | None) -> None:
    with pytest.raises(ProtocolError):
        parse(body, length, "inputs")


@pytest.mark.parametrize("data", [b"", b"\x01\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\0" * 3])
def test_bytes_elements_must_add_up(data: bytes) -> None:
    entry = {"name": "x", "datatype": "BYTES", "shape": [2]}
    text = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": len(data)}}]})
    with pytest.raises(ProtocolError, match="2 elements"):
        parse(text.encode() + data, str(len(text)), "inputs")


def test_halves_have_no_json_form() -> None:
    with pytest.raises(ProtocolError, match="no JSON form"):
        build({}, "outputs", {"x": np.zeros(2, np.float16)}, in_json=["x"])


def test_noise_gives_a_message_or_a_refusal() -> None:
    rng = random.Random(0)
    body, length = build({}, "inputs", VALUES, in_json=[])
    for _ in range(3000):
        noisy = bytearray(body)
        for _ in range(rng.randrange(1, 4)):
            noisy[rng.randrange(len(noisy))] = rng.randrange(256)
        cut = rng.choice([len(noisy), rng.randrange(len(noisy))])
        with contextlib.suppress(ProtocolError):
            parse(bytes(noisy[:cut]), rng.choice([str(length), None, "12"]), "inputs")
