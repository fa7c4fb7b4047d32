"""float16 to float32 by integers is exact, for every finite value there is."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.codecs import half_to_float


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_finite_half_is_exact(dtype: type) -> None:
    half = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    half = half[np.isfinite(half)].copy()
    assert half.size == 2 * 31 * 1024
    out = np.empty(half.size, dtype)
    half_to_float(half, out)
    np.testing.assert_array_equal(out, half.astype(dtype))
    np.testing.assert_array_equal(np.signbit(out), np.signbit(half))
