"""What each codec keeps of a feature map, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.codecs import CODECS, PLAIN, all_finite, decode, encode, pooled, token_norms
from edge_runtime.errors import ConfigError, DataError

Array = np.ndarray[Any, Any]
HALF_TINY = 2.0**-25  # half of float16's smallest step


def some_features(rows: int = 3, size: float = 1.0, seed: int = 0) -> Array:
    values = np.random.default_rng(seed).standard_normal((rows, 4, 6)) * size
    return values.astype(np.float32)


def round_trip(name: str, features: Array, dtype: Any = np.float32) -> Array:
    codec = CODECS[name]
    stored, scale = encode(codec, features)
    rows, tokens, _ = features.shape
    assert stored.dtype == codec.dtype
    assert stored.shape == (rows, tokens, codec.stored_dim(features.shape[2]))
    assert (None if scale is None else scale.shape) == codec.scale_shape(rows, tokens)
    out = np.full(features.shape, np.nan, dtype)
    decode(codec, stored, scale, out)
    return out


def error_bound(name: str, features: Array) -> Array:
    """The largest error that rounding can make, entry by entry."""
    wide = np.abs(features.astype(np.float64))
    if name == "float32":
        return np.zeros_like(wide)
    if name == "float16":
        overflow = np.maximum(wide.max(axis=(1, 2), keepdims=True) / 65504, 1)
        return wide * 2.0**-11 + HALF_TINY * 2.0 ** np.ceil(np.log2(overflow))
    step = wide.max(axis=2, keepdims=True) / (7 if name == "int4" else 127)
    return step * 0.5 * (1 + 1e-4) + 2.0**-126


@pytest.mark.parametrize("size", [1e-6, 1.0, 3000.0, 1e5, 1e30])
@pytest.mark.parametrize("name", PLAIN)
def test_decoding_stays_within_half_a_step(name: str, size: float) -> None:
    features = some_features(size=size)
    found = round_trip(name, features)
    assert (np.abs(found - features.astype(np.float64)) <= error_bound(name, features)).all()


def test_decoding_stays_within_half_a_step_for_any_features() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    numpy_strategies = pytest.importorskip("hypothesis.extra.numpy")
    st = hypothesis.strategies
    values = st.floats(-(2.0**120), 2.0**120, width=32, allow_subnormal=False)
    arrays = numpy_strategies.arrays(np.float32, (2, 2, 3), elements=values)

    @hypothesis.settings(max_examples=150, deadline=None)
    @hypothesis.given(st.sampled_from(sorted(PLAIN)), arrays)
    def check(name: str, features: Array) -> None:
        found = round_trip(name, features)
        assert np.isfinite(found).all()
        assert (np.abs(found - features.astype(np.float64)) <= error_bound(name, features)).all()

    check()


@pytest.mark.parametrize("name", PLAIN)
def test_each_image_is_stored_as_if_it_were_alone(name: str) -> None:
    features = some_features(4)
    features[1] *= 1e6
    together, scales = encode(CODECS[name], features)
    for row in range(4):
        alone, scale = encode(CODECS[name], features[row : row + 1])
        np.testing.assert_array_equal(alone[0], together[row])
        if scales is not None and scale is not None:
            np.testing.assert_array_equal(scale[0], scales[row])


@pytest.mark.parametrize(
    ("largest", "expected"),
    [(0.0, 1), (1.0, 1), (65504.0, 1), (65505.0, 2), (131008.0, 2), (131009.0, 4), (3e38, 2**112)],
)
def test_float16_scales_by_the_least_power_of_two_that_fits(
    largest: float, expected: float
) -> None:
    features = np.zeros((1, 2, 2), np.float32)
    features[0, 1, 1] = -largest
    stored, scale = encode(CODECS["float16"], features)
    assert scale is not None and scale.tolist() == [expected]
    assert np.isfinite(stored).all()


def test_float16_is_exact_for_features_that_were_float16() -> None:
    features = some_features().astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(round_trip("float16", features), features)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_every_finite_float16_is_decoded_exactly(scale: float, dtype: Any) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16).view("<f2")
    half = bits[np.isfinite(bits)].reshape(1, 2, -1)
    out = np.full(half.shape, np.nan, dtype)
    decode(CODECS["float16"], half, np.array([scale], np.float32), out)
    expected = half.astype(np.float64) * scale
    np.testing.assert_array_equal(out.astype(np.float64), expected)
    np.testing.assert_array_equal(np.signbit(out), np.signbit(expected))


def test_int8_uses_its_whole_range_and_keeps_the_largest_entry() -> None:
    features = some_features()
    stored, scale = encode(CODECS["int8"], features)
    assert (np.abs(stored.astype(int)).max(axis=2) == 127).all()
    found = round_trip("int8", features)
    np.testing.assert_allclose(np.abs(found).max(2), np.abs(features).max(2), rtol=1e-6)
    assert scale is not None and (scale > 0).all()


@pytest.mark.parametrize("name", PLAIN)
def test_a_token_of_zeros_stays_zero(name: str, recwarn: pytest.WarningsRecorder) -> None:
    features = some_features()
    features[1, 2] = 0
    features[2] = 0
    found = round_trip(name, features)
    assert not found[1, 2].any() and not found[2].any()
    assert found[1, 1].any()
    assert not recwarn.list


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    features = some_features()
    features[2, 3, 5] = value
    with pytest.raises(DataError, match="NaN or infinite"):
        encode(CODECS[name], features)


@pytest.mark.parametrize("name", PLAIN)
def test_decoding_in_float64_gives_the_same_numbers(name: str) -> None:
    features = some_features(size=1e5)
    np.testing.assert_allclose(
        round_trip(name, features, np.float64), round_trip(name, features), rtol=1e-7
    )


@pytest.mark.parametrize("name", PLAIN)
def test_bytes_of_an_image_are_those_of_its_arrays(name: str) -> None:
    stored, scale = encode(CODECS[name], some_features(5))
    total = stored.nbytes + (0 if scale is None else scale.nbytes)
    assert CODECS[name].bytes_per_image(4, 6) * 5 == total


def test_token_norms_are_exact_where_the_mean_is_large() -> None:
    features = some_features(size=1e-2) + np.float32(3000)
    found = token_norms(features)
    wide = features.astype(np.longdouble)
    exact = ((wide - wide.mean(axis=2, keepdims=True)) ** 2).sum(axis=2)
    assert found.dtype == np.float32 and found.shape == (3, 4)
    np.testing.assert_allclose(found, exact.astype(np.float64), rtol=1e-7)


def test_token_norms_leave_the_features_alone() -> None:
    features = some_features().astype(np.float64)
    before = features.copy()
    token_norms(features)
    np.testing.assert_array_equal(features, before)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_all_finite(dtype: Any) -> None:
    info = np.finfo(dtype)
    values = np.array([0, -0.0, info.max, info.min, info.tiny, -1, info.smallest_subnormal], dtype)
    assert all_finite(values)
    for odd in (np.inf, -np.inf, np.nan, -np.nan):
        assert not all_finite(np.append(values, dtype(odd)))


@pytest.mark.parametrize("dim", [1, 2, 5, 6])
def test_int4_keeps_every_level_of_any_width(dim: int) -> None:
    levels = np.resize(np.arange(-7, 8), (5, 3, dim)).astype(np.float32)
    levels[..., 0] = 7  # so that the scale is 1
    stored, scale = encode(CODECS["int4"], levels)
    assert stored.shape == (5, 3, -(-dim // 2))
    out = np.empty(levels.shape, np.float32)
    decode(CODECS["int4"], stored, scale, out)
    np.testing.assert_array_equal(out, levels)


@pytest.mark.parametrize(("tokens", "prefix"), [(16, 0), (17, 1), (21, 5)])
def test_pooling_averages_squares_of_patches_and_leaves_prefix_tokens(
    tokens: int, prefix: int
) -> None:
    features = np.random.default_rng(0).standard_normal((2, tokens, 3)).astype(np.float32)
    codec = CODECS["int8-pool2"]
    assert codec.stored_tokens(tokens, prefix) == prefix + 4
    found = pooled(codec, features, prefix)
    np.testing.assert_array_equal(found[:, :prefix], features[:, :prefix])
    grid = features[:, prefix:].reshape(2, 4, 4, 3)
    for row in range(2):
        for column in range(2):
            square = grid[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            expected = square.reshape(2, 4, 3).mean(axis=1)
            np.testing.assert_allclose(found[:, prefix + 2 * row + column], expected, rtol=1e-6)
    stored, scale = encode(codec, found)
    again, same = encode(CODECS["int8"], found)
    np.testing.assert_array_equal(stored, again)
    np.testing.assert_array_equal(scale, same)


@pytest.mark.parametrize(("tokens", "prefix"), [(10, 1), (13, 1), (17, 0), (211, 1)])
def test_what_is_no_square_grid_of_even_side_is_not_pooled(tokens: int, prefix: int) -> None:
    features = np.ones((1, tokens, 2), np.float32)
    with pytest.raises(ConfigError, match=f"these {tokens - prefix} are no square .*; use int8"):
        pooled(CODECS["int8-pool2"], features, prefix)
    assert pooled(CODECS["int8"], features, prefix) is features


@pytest.mark.parametrize(
    ("name", "nbytes"), [("float16", 75652), ("int8", 38612), ("int4", 19700), ("int8-pool2", 9800)]
)
def test_bytes_an_image_of_vit_ti(name: str, nbytes: int) -> None:
    codec = CODECS[name]
    assert codec.bytes_per_image(codec.stored_tokens(197, 1), 192) == nbytes
