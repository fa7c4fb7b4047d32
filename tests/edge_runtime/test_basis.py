"""A basis: what it keeps, how it is read back, and what is refused of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import tensorfile
from edge_runtime.basis import Basis
from edge_runtime.codecs import CODECS, decode, encode, token_norms
from edge_runtime.errors import ConfigError, FormatError, MismatchError
from trainer_lite.directions import Directions

Array = np.ndarray[Any, Any]
HERE = Path("here")


def some_features(rows: int = 6, tokens: int = 5, dim: int = 12, seed: int = 0) -> Array:
    """As a transformer's: every channel has a mean, and some are far larger than others."""
    rng = np.random.default_rng(seed)
    size = np.exp(rng.standard_normal(dim))
    mixed = rng.standard_normal((rows, tokens, dim)) @ rng.standard_normal((dim, dim)) * size
    return (mixed + 3).astype(np.float32)


def centred(features: Array) -> Array:
    wide = features.astype(np.float64)
    return wide - wide.mean(axis=2, keepdims=True)


def layer_norm(rows: Array) -> Array:
    rows = centred(rows)
    return rows / np.sqrt(np.mean(np.square(rows), axis=2, keepdims=True))


@pytest.mark.parametrize("width", [2, 5, 12])
def test_what_lies_in_the_directions_is_kept_whole(width: int) -> None:
    """Lengths and angles; no mean over channels; and LayerNorm's result, but for one factor."""
    inside = Directions([some_features()]).basis(width).matrix
    features = (some_features(seed=1).astype(np.float64) @ inside.T @ inside + 7.0).astype("<f4")
    basis = Basis(inside)
    found = basis.apply(features)
    assert found.shape == (6, 5, width) and found.dtype == np.float32
    np.testing.assert_allclose(found.mean(axis=2), 0, atol=1e-5)
    np.testing.assert_allclose(token_norms(found), token_norms(features), rtol=1e-5)
    whole = layer_norm(features) * np.sqrt(width / 12)
    np.testing.assert_allclose(layer_norm(found) @ inside, whole, atol=1e-4)


def test_no_other_directions_keep_more() -> None:
    features = some_features()
    basis = Directions([features]).basis(5)
    kept = np.square(basis.apply(features), dtype=np.float64).sum()
    left = np.linalg.svd(centred(features).reshape(-1, 12), compute_uv=False)
    np.testing.assert_allclose(kept, np.square(left[:4]).sum(), rtol=1e-6)
    share = Directions([features]).kept(5)
    np.testing.assert_allclose(share, np.square(left[:4]).sum() / np.square(left).sum(), rtol=1e-9)


def test_the_fit_is_the_same_however_the_features_come() -> None:
    features = some_features()
    whole = Directions([features]).basis(4)
    pieces = Directions([features[:1], features[1:4], features[4:]]).basis(4)
    assert whole.identity == pieces.identity
    turned = Directions([-features]).basis(4)  # the same directions: their signs are fixed
    assert whole.identity == turned.identity


def test_an_image_has_the_same_bits_in_any_batch() -> None:
    features = some_features(rows=9, tokens=7, dim=33)
    basis = Directions([features]).basis(16)
    together = basis.apply(features)
    for row in range(9):
        np.testing.assert_array_equal(basis.apply(features[row : row + 1])[0], together[row])


def test_features_without_directions_still_have_a_basis() -> None:
    basis = Directions([np.full((2, 3, 6), 4.0, np.float32)]).basis(6)
    assert not np.abs(basis.apply(np.full((1, 1, 6), 5.0, np.float32))).max() > 1e-5
    assert Basis.from_json(basis.to_json(), HERE).identity == basis.identity


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_numbers_in_a_basis_share_the_length_of_a_token(name: str) -> None:
    """One direction far longer than all others: its size must not set the others' step."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((4, 5, 32)).astype(np.float32)
    features[:, :, 0] *= 50
    basis = Directions([features]).basis(32)
    largest = np.abs(basis.apply(features)).max(axis=2)
    plain = np.abs(centred(features)).max(axis=2)
    assert (largest < 0.5 * plain).all()
    stored, scale = encode(CODECS[name], basis.apply(features))
    out = np.empty((4, 5, 32), np.float32)
    decode(CODECS[name], stored, scale, out)
    steps = largest / (127 if name == "int8" else 7)
    assert (np.abs(out - basis.apply(features)).max(axis=2) <= 0.5001 * steps).all()


def test_any_features_come_through_a_basis_and_a_codec_as_exact_as_its_step() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    numpy_strategies = pytest.importorskip("hypothesis.extra.numpy")
    st = hypothesis.strategies
    values = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
    arrays = numpy_strategies.arrays(np.float32, (2, 3, 8), elements=values)

    @hypothesis.settings(max_examples=100, deadline=None)
    @hypothesis.given(
        st.sampled_from(["float32", "float16", "int8", "int4"]), st.integers(2, 8), arrays, arrays
    )
    def check(name: str, width: int, fitted_on: Array, features: Array) -> None:
        basis = Directions([fitted_on]).basis(width)
        assert Basis.from_json(basis.to_json(), HERE).identity == basis.identity
        inside = basis.apply(features)
        stored, scale = encode(CODECS[name], inside)
        out = np.empty(inside.shape, np.float32)
        decode(CODECS[name], stored, scale, out)
        step = {"float32": 0.0, "float16": 2.0**-11, "int8": 0.5 / 127, "int4": 0.5 / 7}[name]
        largest = np.abs(inside).max(axis=2, keepdims=True)
        least = 2.0**-40 * largest.max(axis=1, keepdims=True)  # of an image's float16: denormals
        assert (np.abs(out - inside) <= 1.001 * step * largest + least + 1e-7).all()
        longest = np.sqrt(np.square(centred(features)).sum(axis=2))
        kept = np.sqrt(np.square(inside.astype(np.float64)).sum(axis=2))
        most = np.abs(features).max(axis=2)  # of the entries that the product rounds
        assert (kept <= longest * (1 + 1e-5) + 1e-5 * most).all()

    check()


@pytest.mark.parametrize("width", [0, 1, 13])
def test_a_width_that_cannot_be_is_refused(width: int) -> None:
    with pytest.raises(ConfigError, match="at most as many as these features, 12"):
        Directions([some_features()]).basis(width)


def test_features_of_another_width_are_refused() -> None:
    basis = Directions([some_features()]).basis(4)
    with pytest.raises(MismatchError, match="12 wide, these are 13"):
        basis.apply(some_features(dim=13))


def test_the_file_comes_back(tmp_path: Path) -> None:
    basis = Directions([some_features()]).basis(4)
    basis.save(tmp_path / "basis")
    assert Basis.load(tmp_path / "basis").identity == basis.identity


WRONG = {
    "float64": lambda m: m.astype(np.float64),
    "a vector": lambda m: m[0].copy(),
    "one direction": lambda m: m[:1].copy(),
    "more directions than channels": lambda m: np.ascontiguousarray(m.T),
    "NaN": lambda m: m * np.float32("nan"),
    "too large for float32": lambda m: m * np.float32(1e30),
    "stretched": lambda m: m * np.float32(1.01),
    "with a mean": lambda m: m + np.float32(0.01),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_matrix_that_is_no_basis_is_refused(wrong: str, tmp_path: Path) -> None:
    basis = Directions([some_features()]).basis(4)
    metadata = {"format": "edgetune.basis", "version": "1"}
    tensorfile.write(tmp_path / "basis", {"matrix": WRONG[wrong](basis.matrix)}, metadata)
    with pytest.raises(FormatError, match="keeps lengths"):
        Basis.load(tmp_path / "basis")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("float32", "no base64"),
        ("float32", "AAAA"),
        ("float32", 3),
        ("shape", [4, 13]),
        ("shape", ["4", None]),
        ("shape", [1 << 70, -1]),
        ("identity", "ab" * 32),
        ("identity", None),
    ],
)
def test_a_damaged_entry_is_refused(key: str, value: object) -> None:
    content = {**Directions([some_features()]).basis(4).to_json(), key: value}
    with pytest.raises(FormatError):
        Basis.from_json(content, HERE)
