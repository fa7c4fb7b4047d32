"""Our safetensors files are those of the library, byte by byte; damaged ones are refused."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import tensorfile
from edge_runtime.errors import FormatError

TENSORS = {
    "b": np.array([[1.0, -2.5]], np.float32),
    "a": np.array([1, 2, 3], np.int8),
    "scalar": np.array(7, np.int32),
    "empty": np.zeros((0, 4), np.float16),
}
METADATA = {"version": "1", "format": "test"}


def file_of(path: Path, header: Any, data: bytes = b"") -> Path:
    """A file with this header, be it JSON or raw bytes, and these tensor bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_the_bytes_of_a_file_are_these(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensorfile.write(path, {"t": np.array([1, -1], np.int8)}, {"k": "v"})
    header = b'{"__metadata__":{"k":"v"},"t":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}'
    assert len(header) == 78
    assert path.read_bytes() == struct.pack("<Q", 80) + header + b"  " + b"\x01\xff"


def test_what_was_written_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensorfile.write(path, TENSORS, METADATA)
    tensors, metadata = tensorfile.read(path)
    assert metadata == METADATA
    assert set(tensors) == set(TENSORS)
    assert [name for name in tensors if name != "empty"] == ["b", "a", "scalar"]
    for name, array in TENSORS.items():
        assert (tensors[name].dtype, tensors[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(tensors[name], array)


def test_memory_layout_and_byte_order_do_not_matter(tmp_path: Path) -> None:
    plain = np.arange(12, dtype=np.float32).reshape(3, 4)
    variants = [plain.T.copy().T, np.repeat(plain, 2, axis=1)[:, ::2], plain.astype(">f4")]
    tensorfile.write(tmp_path / "plain", {"x": plain}, {})
    for array in variants:
        tensorfile.write(tmp_path / "other", {"x": array}, {})
        assert (tmp_path / "other").read_bytes() == (tmp_path / "plain").read_bytes()


def test_anything_comes_back_as_it_went(tmp_path: Path) -> None:
    hypothesis = pytest.importorskip("hypothesis")
    numpy_strategies = pytest.importorskip("hypothesis.extra.numpy")
    st = hypothesis.strategies
    arrays = numpy_strategies.arrays(
        st.sampled_from(list(tensorfile.NAMES)),
        numpy_strategies.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
    words = st.text(st.characters(codec="utf-8"), max_size=8)
    names = words.filter(lambda name: name != "__metadata__")

    @hypothesis.settings(max_examples=60, deadline=None)
    @hypothesis.given(st.dictionaries(names, arrays, max_size=4), st.dictionaries(words, words))
    def check(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
        tensorfile.write(tmp_path / "x", tensors, metadata)
        found, found_metadata = tensorfile.read(tmp_path / "x")
        assert found_metadata == metadata
        assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in found.items()} == {
            n: (a.dtype, a.shape, a.tobytes()) for n, a in tensors.items()
        }

    check()


def test_the_library_reads_ours(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    library = pytest.importorskip("safetensors.numpy")
    tensorfile.write(tmp_path / "x", TENSORS, METADATA)
    found = library.load_file(tmp_path / "x")
    assert set(found) == set(TENSORS)
    for name, array in TENSORS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with safetensors.safe_open(tmp_path / "x", "np") as file:
        assert file.metadata() == METADATA


def test_we_read_the_librarys(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    library.save_file(TENSORS, tmp_path / "x", METADATA)
    tensors, metadata = tensorfile.read(tmp_path / "x")
    assert metadata == METADATA
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in tensors.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in TENSORS.items()
    }


def test_metadata_may_be_absent(tmp_path: Path) -> None:
    tensors, metadata = tensorfile.read(file_of(tmp_path / "x", {"t": entry()}, bytes(8)))
    assert (list(tensors), metadata) == (["t"], {})


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensorfile.write(path, {"a": TENSORS["a"], "b": TENSORS["b"]}, METADATA)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=str(path)):
            tensorfile.read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(FormatError, match=f"announces {len(whole)} bytes, the file has"):
        tensorfile.read(path)


BAD_HEADERS: dict[str, tuple[Any, str]] = {
    "not JSON": (b"{" + b"x" * 40, "not JSON"),
    "not UTF-8": (b'{"\xff\xfe":1}', "not JSON"),
    "not an object": ([1, 2], "not an object"),
    "too deep": (b"[" * 100_000, "not JSON"),
    "metadata not an object": ({"__metadata__": [], "t": entry()}, "must map strings"),
    "metadata not strings": ({"__metadata__": {"n": 1}, "t": entry()}, "must map strings"),
    "no tensors": ({}, "truncated"),
    "entry not an object": ({"t": 5}, "no valid data_offsets"),
    "no offsets": ({"t": {"dtype": "F32", "shape": [2]}}, "no valid data_offsets"),
    "three offsets": ({"t": entry(offsets=[0, 4, 8])}, "no valid data_offsets"),
    "offsets not whole": ({"t": entry(offsets=[0.0, 8.0])}, "no valid data_offsets"),
    "offsets booleans": ({"t": entry("I8", [1], [False, True])}, "no valid data_offsets"),
    "negative offset": ({"t": entry(offsets=[-8, 0])}, "overlap, leave holes"),
    "backwards": ({"t": entry(shape=[0], offsets=[8, 0])}, "overlap, leave holes"),
    "hole before": ({"t": entry(shape=[1], offsets=[4, 8])}, "overlap, leave holes"),
    "hole behind": ({"t": entry(shape=[1], offsets=[0, 4])}, "truncated or altered"),
    "hole between": (
        {"t": entry(shape=[1], offsets=[0, 4]), "u": entry("I8", [2], [6, 8])},
        "overlap, leave holes",
    ),
    "overlap": (
        {"t": entry(), "u": entry(shape=[1], offsets=[4, 8])},
        "overlap, leave holes",
    ),
    "the same twice": ({"t": entry(), "u": entry()}, "overlap, leave holes"),
    "size against shape": ({"t": entry(shape=[3])}, "overlap, leave holes"),
    "beyond the file": ({"t": entry(shape=[200], offsets=[0, 800])}, "truncated or altered"),
    "unknown dtype": ({"t": entry("BF16", [4])}, "'BF16' is not used"),
    "dtype a list": ({"t": entry(["F32"])}, "is not used"),
    "no dtype": ({"t": {"shape": [2], "data_offsets": [0, 8]}}, "None is not used"),
    "shape a number": ({"t": entry(shape=2)}, "no valid shape"),
    "negative shape": ({"t": entry(shape=[-1, -2])}, "no valid shape"),
    "shape booleans": ({"t": entry("F64", [True])}, "no valid shape"),
    "shape not whole": ({"t": entry(shape=[2.0])}, "no valid shape"),
    "empty but huge": (
        {"t": entry(), "u": entry(shape=[0, 1 << 62], offsets=[8, 8])},
        "more entries",
    ),
    "too many dimensions": ({"t": entry(shape=[1] * 99 + [2])}, "more entries"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_damaged_header_is_refused(case: str, tmp_path: Path) -> None:
    header, message = BAD_HEADERS[case]
    path = file_of(tmp_path / "x", header, bytes(8))
    with pytest.raises(FormatError, match=message) as refusal:
        tensorfile.read(path)
    assert str(refusal.value).startswith(str(path)) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("length", [0, 1, 41, 1 << 24, (1 << 24) + 1, 1 << 63, (1 << 64) - 1])
def test_a_header_length_that_cannot_be_is_refused(length: int, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(struct.pack("<Q", length) + b" " * 40)
    with pytest.raises(FormatError, match="not a safetensors file, or cut off in its header"):
        tensorfile.read(tmp_path / "x")


def test_a_header_longer_than_the_bound_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "x", "wb") as file:
        file.write(struct.pack("<Q", tensorfile.MAX_HEADER_BYTES + 8))
        file.truncate(tensorfile.MAX_HEADER_BYTES + 64)  # sparse: takes no room on disk
    with pytest.raises(FormatError, match="cut off in its header"):
        tensorfile.read(tmp_path / "x")


def test_no_more_is_allocated_than_the_file_holds(tmp_path: Path) -> None:
    huge = 1 << 38
    headers = [
        {"t": entry("U8", [huge], [0, huge])},
        {"t": entry("U8", [8], [0, 8]), "u": entry("U8", [huge], [8, 8 + huge])},
        {"t": entry("U8", [8], [0, 8]), "u": entry("F64", [0, huge], [8, 8])},
    ]
    tracemalloc.start()
    try:
        for header in headers[:2]:
            with pytest.raises(FormatError, match="truncated"):
                tensorfile.read(file_of(tmp_path / "x", header, bytes(8)))
        (tmp_path / "y").write_bytes(struct.pack("<Q", 1 << 24) + bytes(64))
        with pytest.raises(FormatError, match="cut off"):
            tensorfile.read(tmp_path / "y")
        tensors, _ = tensorfile.read(file_of(tmp_path / "x", headers[2], bytes(8)))
        assert tensors["u"].shape == (0, huge)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file"):
        tensorfile.read(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="is a folder; a safetensors file was expected"):
        tensorfile.read(tmp_path)
