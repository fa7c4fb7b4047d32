"""Stored matrices: what is restored, how far it is from the original, which side has the scales."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ExportError
from export.quantize import QUANTIZE, rounded, store
from tests.export.adaptor_graphs import adaptor_of

MATRIX = np.random.default_rng(0).standard_normal((24, 6)).astype(np.float32)
MATRIX[:, 2] *= 100  # a scale of its own keeps it from drowning the others


@pytest.mark.parametrize(("quantize", "bound"), [("none", 0), ("float16", 2**-11)])
def test_floats_are_restored_to_their_precision(quantize: str, bound: float) -> None:
    restored = store(MATRIX, quantize, "m").restored()
    assert restored.dtype == np.float32
    assert (np.abs(restored - MATRIX) <= bound * np.abs(MATRIX)).all()


@pytest.mark.parametrize("matrix", [MATRIX, np.ascontiguousarray(MATRIX.T)])
def test_int8_is_within_half_a_step_of_its_own_row_or_column(matrix: np.ndarray) -> None:
    stored = store(matrix, "int8", "m")
    assert stored.values.dtype == np.int8 and stored.scale is not None
    assert stored.scale.shape == (6,) and stored.values.shape == matrix.shape
    largest = np.abs(matrix).max(axis=1 - stored.axis, keepdims=True)
    assert (np.abs(stored.restored() - matrix) <= largest / 127 * 0.5001).all()
    np.testing.assert_array_equal(stored.transposed().restored(), stored.restored().T)


def test_a_matrix_of_zeros_stays_one() -> None:
    assert not store(np.zeros((3, 4), np.float32), "int8", "m").restored().any()


def test_what_float16_cannot_hold_is_refused() -> None:
    with pytest.raises(ExportError, match="head.weight has entries that float16 cannot hold"):
        store(MATRIX * 1e6, "float16", "head.weight")


@pytest.mark.parametrize("quantize", QUANTIZE)
def test_only_matrices_are_rounded(quantize: str) -> None:
    before = adaptor_of().parameters
    after = rounded(before, quantize)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    expected = set() if quantize == "none" else {"blocks.qkv", "blocks.out", "head.weight"}
    assert changed == expected
    for name, array in after.items():
        assert array.shape == before[name].shape and array.dtype == np.float32
