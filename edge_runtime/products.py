"""Matrix products in pieces, which OpenBLAS multiplies faster than all at once.

A large product is computed from copies of its operands, packed as the kernels read them best. With
AVX-512, OpenBLAS has other kernels for small products, which read the operands where they are and
pay for no copy. A large product that is cut up for them takes 5 to 25 % less time
(benchmarks/products.py), and the pieces of one cut are one call of np.matmul.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edge_runtime import ops
from edge_runtime.program import Array, Program

Piece = tuple[Array, Array, Array]

# Which products these kernels take, as OpenBLAS's sgemm_small_kernel_permit_skylakex.c says it: of
# so many MACs; and where the sums run along the memory of both operands, of so many results and
# sums of some length.
SMALL_MACS = 1_000_000
SMALL_DOTS = 1200
LEAST_SUM = 32
# Rows that lie so many bytes apart fall into one set of the first cache, and push each other out.
ALIASED = 4096
# What we chose: columns of a piece, of rows as many as may be, but not fewer than these, or the
# kernels do worse than those that pack.
COLUMNS = 16
DOT_COLUMNS = 8
LEAST_ROWS = 24
# Of so many rows, those kernels sum each entry in the same order, whatever piece it is in.
SAME_ROWS = 4


def blas_name() -> str:
    """The BLAS that numpy was built with."""
    try:
        built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{built['name']} {built.get('version', '')}".strip()
    except (TypeError, KeyError):  # before numpy 1.26
        info = getattr(np.__config__, "blas_opt_info", {})
        return ", ".join(info.get("libraries", [])) or "unknown"


# The same wherever the processor and numpy are, so that a run gives the same bits again.
IN_PIECES = ops.has_avx512() and "openblas" in blas_name()


def emit_product(program: Program, x: Array, y: Array, out: Array) -> None:
    """Appends out = x y, of (m, k) and (k, n), in the way that is fastest here."""
    for piece in pieces(x, y, out) or [(x, y, out)]:
        program.emit(np.matmul, *piece)


def pieces(x: Array, y: Array, out: Array) -> list[Piece]:
    """Products that together are out = x y: views, each with two axes of pieces before its own.

    No pieces where the product is faster at once. Where sums run along the memory of both operands,
    neither that nor any bit of a column depends on the other columns.
    """
    (m, k), n, size = x.shape, y.shape[1], x.itemsize
    dots = x.strides[1] == size == y.strides[0]
    columns = min(n, DOT_COLUMNS if dots else COLUMNS)
    most = SMALL_MACS // (k * (columns + 1))
    if dots:
        most = min(most, SMALL_DOTS // (DOT_COLUMNS + 1)) // SAME_ROWS * SAME_ROWS
        cut = k >= LEAST_SUM and m >= LEAST_ROWS and m % SAME_ROWS == 0
    else:
        cut = m * n * k > SMALL_MACS and y.strides[0] % ALIASED != 0
    if not IN_PIECES or not cut or most < min(m, LEAST_ROWS):
        return []
    rows = -(-m // -(-m // most))  # as few rows of pieces as can be, all about as high
    if dots:
        rows += -rows % SAME_ROWS
    return [
        (
            split(x, 0, *down)[:, None],
            split(y, 1, *across).transpose(1, 0, 2)[None],
            split(split(out, 1, *across), 0, *down).transpose(0, 2, 1, 3),
        )
        for down in cuts(m, rows)
        for across in cuts(n, columns)
    ]


def cuts(size: int, piece: int) -> Iterator[tuple[slice, int]]:
    """Where pieces of one length lie, and the length: as many as fit, then what is left over.

    A single one left over makes a longer piece with the last: alone it would be a product with a
    vector, which is summed in another order, and no result is to depend on what it comes with.
    """
    rest = size % piece
    if rest == 1 and size > piece > 1:
        rest += piece
    if size > rest:
        yield slice(0, size - rest), piece
    if rest:
        yield slice(size - rest, size), rest


def split(array: Array, axis: int, part: slice, piece: int) -> Array:
    """A view of a part of an axis, which becomes two: (pieces, piece)."""
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    return array[(slice(None),) * axis + (part,)].reshape(*before, -1, piece, *after)
