"""Operations on buffers, used by the forward pass of inference and of training alike.

Small tensors are channel-major (channels x tokens of the tile), so that every product and every
elementwise pass runs along contiguous tokens. Attention weights are key-major (keys x queries):
they are what `k^T q` gives, and `v` times them needs no transposed copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

Array = np.ndarray[Any, Any]
Function = TypeVar("Function", bound=Callable[..., Any])


def has_avx512() -> bool:
    """Whether numpy finds AVX-512 in this processor."""
    core = getattr(np, "_core", None) or np.core
    return bool(getattr(core._multiarray_umath, "__cpu_features__", {}).get("AVX512_SKX"))


def _power() -> tuple[Any, float]:
    """numpy's faster exponential here, and the logarithm of its base.

    With AVX-512 numpy's exp2 takes half the time of its exp; elsewhere exp is as fast or faster.
    A score is then held in bits: the factor goes into the queries' weights.
    """
    return (np.exp2, math.log(2)) if has_avx512() else (np.exp, 1.0)


POWER, LOG_BASE = _power()
# exp(60) summed over any number of tokens stays far below float32's 3e38, and exp(-60) far above
# its denormals: within this bound a softmax needs no row maximum.
SAFE_SCORE = 60.0
# Below this, a weight is as good as 0; going lower would produce denormals, which are slow.
LEAST_SCORE = -80.0


def elementwise(passes: int) -> Callable[[Function], Function]:
    """Notes how often a function goes over its largest argument (flops.py counts by it)."""

    def note(function: Function) -> Function:
        function.passes = passes  # type: ignore[attr-defined]
        return function

    return note


def fill(x: Array, value: float) -> None:
    """Every entry of x = value."""
    x.fill(value)


@elementwise(passes=1)
def sum_channels(x: Array, out: Array) -> None:
    """out[t] = sum over channels of x[c, t]."""
    np.add.reduce(x, 0, out=out)


def outer(column: Array, row: Array, out: Array) -> None:
    """Products of (..., n, 1) and (..., 1, m), which np.matmul computes without BLAS, four times
    as slowly."""
    np.multiply(column, row, out)


def product_over(length: int) -> Callable[[Array, Array, Array], object]:
    """The function that multiplies matrices fastest, by the length of its sums."""
    return outer if length == 1 else np.matmul


@elementwise(passes=2)
def sum_channel_products(x: Array, y: Array, out: Array) -> None:
    """out[..., t] = sum over channels of x[..., c, t] y[..., c, t]; products are never held."""
    np.einsum("...ct,...ct->...t", x, y, out=out)


@elementwise(passes=1)
def weigh_channels(weights: Array, x: Array, out: Array) -> None:
    """out[t] = sum over channels of weights[c] x[c, t]; BLAS adds faster than numpy does."""
    np.dot(weights, x, out)


@elementwise(passes=1)
def sum_tokens(x: Array, ones: Array, out: Array) -> None:
    """out[c] = sum over tokens of x[c, t], as a product with (T,) ones, which is faster."""
    np.dot(x, ones, out)


@elementwise(passes=1)
def mean_rows(x: Array, out: Array) -> None:
    """out[i, 0] = mean of row i of x; out is (rows, 1)."""
    np.add.reduce(x, 1, out=out, keepdims=True)
    np.multiply(out, 1.0 / x.shape[1], out)


@elementwise(passes=1)
def clamp(x: Array, least: float) -> None:
    """x = max(x, least), in place."""
    np.maximum(x, least, out=x)


@elementwise(passes=3)  # largest, smallest, exp
def exp_scores(scores: Array) -> None:
    """Turns scores[..., key, query] into POWER(scores - shift), shift constant a query.

    No shift is needed while all scores of the tile are safe, which is the rule; else the largest
    score of each query is subtracted. Softmax does not depend on the shift.
    """
    safe = SAFE_SCORE / LOG_BASE
    largest, least = np.maximum.reduce(scores, None), np.minimum.reduce(scores, None)
    if not (largest < safe and least > -safe):
        scores -= scores.max(axis=2, keepdims=True)
        np.maximum(scores, LEAST_SCORE / LOG_BASE, out=scores)
    POWER(scores, scores)


def times_transposed(x: Array, s: Array, x_rows: Array, product: Array, out: Array) -> None:
    """out = x s^T for few rows of x (..., c, n) and square s (..., n, n), as (s x^T)^T.

    BLAS runs along the rows of s either way, and is 2.6 times as fast when x^T is contiguous.
    Work space: x_rows and product, (..., n, c).
    """
    np.copyto(x_rows, x.swapaxes(-1, -2))
    np.matmul(s, x_rows, product)
    np.copyto(out, product.swapaxes(-1, -2))


@elementwise(passes=2)
def inverse_root(x: Array, out: Array) -> None:
    """1 / sqrt(x)."""
    np.sqrt(x, out)
    np.reciprocal(out, out)


@elementwise(passes=5)
def layer_norm(x: Array, eps: float, rstd: Array, out: Array) -> None:
    """Rows of x (B, d) to mean 0 and variance 1, in `out`; their 1/sigma in `rstd` (B, 1)."""
    mean_rows(x, rstd)
    np.subtract(x, rstd, out)
    np.matmul(out[:, None], out[:, :, None], rstd[:, :, None])
    np.multiply(rstd, 1.0 / x.shape[1], rstd)
    np.add(rstd, eps, rstd)
    inverse_root(rstd, rstd)
    np.multiply(out, rstd, out)
