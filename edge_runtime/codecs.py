"""How a feature map is stored: float32, float16, int8 or int4, one image at a time; pooled or not.

Every codec is `decoded = stored * scale`. What an image is stored as depends on that image alone,
so that shards come out the same however they are batched. With pooling (`-pool2`), the patch tokens
of each 2 x 2 square are averaged first: features of a quarter of the tokens, that are then all
there is; prefix tokens stay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge_runtime.errors import ConfigError, DataError

Array = np.ndarray[Any, Any]

FLOAT16_MAX = 65504.0
INT8_MAX = 127.0
INT4_MAX = 7.0
HALF_MASK = np.int32(0x8FFFE000 - (1 << 32))  # sign, and the 15 bits of exponent and fraction
HALF_EXPONENT = np.uint16(0x7C00)  # all set: infinite or NaN
HALF_BIAS = np.float32(2.0**112)  # the exponents' biases differ by 127 - 15


@dataclass(frozen=True)
class Codec:
    """A stored form; `scale_axes` are the axes of (rows, tokens) that `scale` runs over.

    Args:
        per_item: entries in one stored item: 2 where a byte holds two.
        pool: side of the squares of patch tokens that are averaged before anything else.
    """

    name: str
    dtype: np.dtype[Any]
    scale_axes: int
    per_item: int = 1
    pool: int = 1

    def stored_tokens(self, tokens: int, prefix_tokens: int) -> int:
        """Tokens that are stored of a map of so many, the same prefix tokens among them.

        Raises:
            ConfigError: the patch tokens are no square grid that divides into squares.
        """
        if self.pool == 1:
            return tokens
        patches = tokens - prefix_tokens
        side = math.isqrt(patches)
        if side * side != patches or side % self.pool:
            raise ConfigError(
                f"codec {self.name} pools squares of {self.pool} x {self.pool} patch tokens, and "
                f"these {patches} are no square grid that divides so; use {self.plain}"
            )
        return prefix_tokens + patches // self.pool**2

    @property
    def plain(self) -> str:
        """Name of the codec that stores the same without pooling."""
        return self.name.split("-")[0]

    def stored_dim(self, embed_dim: int) -> int:
        """Stored items of one token."""
        return -(-embed_dim // self.per_item)

    def scale_shape(self, rows: int, tokens: int) -> tuple[int, ...] | None:
        """Shape of `scale` for so many images; None where the codec has none."""
        return (rows, tokens)[: self.scale_axes] if self.scale_axes else None

    def bytes_per_image(self, tokens: int, embed_dim: int) -> int:
        """Stored bytes of one image of so many stored tokens: its feature map and its scales."""
        scales = {0: 0, 1: 1, 2: tokens}[self.scale_axes]
        return tokens * self.stored_dim(embed_dim) * self.dtype.itemsize + 4 * scales


def scratch_layout(codec: Codec, images: int, tokens: int, embed_dim: int) -> tuple[int, int]:
    """(offset of the scales, bytes in all) of work space that holds stored images and scales."""
    start = images * tokens * codec.stored_dim(embed_dim) * codec.dtype.itemsize
    start += -start % 8
    return start, start + 4 * math.prod(codec.scale_shape(images, tokens) or (0,))


PLAIN = {
    "float32": Codec("float32", np.dtype("<f4"), 0),
    "float16": Codec("float16", np.dtype("<f2"), 1),
    "int8": Codec("int8", np.dtype("i1"), 2),
    "int4": Codec("int4", np.dtype("u1"), 2, per_item=2),
}
POOLED = {
    f"{name}-pool2": replace(PLAIN[name], name=f"{name}-pool2", pool=2)
    for name in ("float16", "int8", "int4")
}
CODECS = {**PLAIN, **POOLED}


def pooled(codec: Codec, features: Array, prefix: int) -> Array:
    """[rows, tokens, dim] with the patch tokens of each square averaged, where the codec does so.

    Args:
        prefix: tokens that come before the patch tokens.

    Raises:
        ConfigError: as `Codec.stored_tokens`.
    """
    if codec.pool == 1:
        return features
    rows, count, dim = features.shape
    tokens = codec.stored_tokens(count, prefix)
    side, p = math.isqrt(count - prefix), codec.pool
    squares = features[:, prefix:].reshape(rows, side // p, p, side // p, p, dim)
    out = np.empty((rows, tokens, dim), features.dtype)
    out[:, :prefix] = features[:, :prefix]
    out[:, prefix:] = squares.mean(axis=(2, 4)).reshape(rows, -1, dim)
    return out


def encode(codec: Codec, features: Array) -> tuple[Array, Array | None]:
    """Encodes float32 [rows, tokens, dim], pooled already: (stored, scale or None).

    Raises:
        DataError: an entry is NaN or infinite.
    """
    axes = (1, 2) if codec.scale_axes < 2 else 2
    largest = np.maximum(features.max(axis=axes), -features.min(axis=axes))  # NaN passes through
    if not np.isfinite(largest).all():
        raise DataError("features hold NaN or infinite entries")
    if codec.scale_axes == 0:
        return features.astype(codec.dtype), None
    if codec.scale_axes == 1:
        exponents = np.ceil(np.log2(np.maximum(largest / FLOAT16_MAX, 1.0)))
        scale = np.exp2(exponents).astype("<f4")
        if (scale != 1).any():
            features = features / scale[:, None, None]
        return features.astype(codec.dtype), scale
    most = INT8_MAX if codec.per_item == 1 else INT4_MAX
    scale = (np.maximum(largest, np.finfo(np.float32).tiny * most) / most).astype("<f4")
    scaled = features / scale[:, :, None]
    np.rint(scaled, out=scaled)
    return (scaled.astype(codec.dtype) if codec.per_item == 1 else pack(scaled)), scale


def pack(values: Array) -> Array:
    """Whole numbers from -7 to 7 (..., dim), plus 8, two to a byte.

    Byte i has entry i of the first half in its low bits, entry i of the second in its high bits.
    """
    half = -(-values.shape[-1] // 2)
    nibbles = (values + 8).astype(np.uint8)
    out = nibbles[..., :half].copy()
    out[..., : values.shape[-1] - half] |= nibbles[..., half:] << 4
    return out


def decode(codec: Codec, stored: Array, scale: Array | None, out: Array) -> None:
    """Decodes [rows, tokens, dim] into `out`, a float array of the same shape."""
    if scale is None:
        np.copyto(out, stored)
    elif codec.per_item == 2:
        half = stored.shape[-1]
        np.bitwise_and(stored, 15, out=out[..., :half], casting="unsafe")
        np.right_shift(
            stored[..., : out.shape[-1] - half], 4, out=out[..., half:], casting="unsafe"
        )
        np.subtract(out, 8.0, out)
        np.multiply(out, scale[:, :, None], out)
    elif codec.scale_axes == 2:
        np.multiply(stored, scale[:, :, None], out, casting="unsafe")
    else:
        half_to_float(stored, out)
        if (scale != 1).any():
            out *= scale[:, None, None]


def half_to_float(half: Array, out: Array) -> None:
    """Finite float16 to float32 or float64, exactly.

    To float32 by integers, five times as fast as numpy's own conversion on x86-64
    (benchmarks/half_to_float.py): exponent and fraction move to their places in a float32, whose
    exponent is then 112 too small. Infinities and NaN would come out finite; no shard holds any.
    Where the processor flushes denormals, halves below 6.2e-5 come out as 0.
    """
    if out.dtype != np.float32:
        np.copyto(out, half)
        return
    bits = out.view(np.int32)
    np.copyto(bits, half.view(np.int16))  # sign-extends
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, HALF_MASK, out=bits)
    np.multiply(out, HALF_BIAS, out=out)


def all_finite(values: Array) -> bool:
    """Whether a float array is free of NaN and infinities; float16 by its bits: quicker."""
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    exponents = np.bitwise_and(values.view(np.uint16), HALF_EXPONENT)
    return not bool((exponents == HALF_EXPONENT).any())


def token_norms(decoded: Array) -> Array:
    """|z - mean(z)|^2 of every token of [rows, tokens, dim], summed in float64, as float32."""
    wide = decoded.astype(np.float64)
    wide -= wide.mean(axis=2, keepdims=True)
    norms: Array = np.square(wide, out=wide).sum(axis=2).astype("<f4")
    return norms
