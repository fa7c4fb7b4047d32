"""The products of a training step, in pieces and all at once, side by side.

python -m benchmarks.products --dim 192
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in training

import statistics
from collections.abc import Sequence
from functools import partial

import click
import numpy as np

from benchmarks.timing import alternate, median_ratio
from edge_runtime import products
from edge_runtime.allocate import zeros
from edge_runtime.program import Array


@click.command()
@click.option("--tokens", default=394, show_default=True, help="A tile of two images.")
@click.option("--dim", default=768, show_default=True)
@click.option("--rows", default=120, show_default=True, help="4 blocks of rank 8, less one U.")
@click.option("--repeats", default=300, show_default=True)
def main(tokens: int, dim: int, rows: int, repeats: int) -> None:
    """Prints microseconds of each, and the ratio of the first to the second, used here or not."""
    draw, shapes = np.random.default_rng(0), [(tokens, dim), (rows, dim), (rows, tokens)]
    z, right, e, h = (random(draw, shape) for shape in (*shapes, (32, tokens)))
    x, x_rows = zeros(e.shape, np.float32), zeros((tokens, rows), np.float32)
    dright, mixed = zeros(right.shape, np.float32), zeros((rows, len(h)), np.float32)

    def turned() -> None:
        np.matmul(z, right.T, x_rows)
        np.copyto(x, x_rows.T)

    used = "pieces" if products.IN_PIECES else "whole products"
    click.echo(f"numpy {np.__version__}, {products.blas_name()}; training uses {used} here")
    products.IN_PIECES = True
    cases = [
        ("x = right z^T", (right, z.T, x), turned),
        ("dright = e z", (e, z, dright), partial(np.matmul, e, z, dright)),
        ("mixed = e H^T", (e, h.T, mixed), partial(np.matmul, e, h.T, mixed)),
    ]
    for name, whole, at_once in cases:
        cut = products.pieces(*whole)
        if not cut:
            click.echo(f"{name:14} is not cut at this shape")
            continue
        ours, theirs = alternate([partial(multiply, cut), at_once], repeats)
        times = [statistics.median(seconds) * 1e6 for seconds in (ours, theirs)]
        click.echo(
            f"{name:14} pieces {times[0]:7.1f} us, at once {times[1]:7.1f} us, "
            f"ratio {median_ratio(ours, theirs):.2f}"
        )


def random(draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Numbers in memory that is aligned as a step's buffers are."""
    array = zeros(shape, np.float32)
    array[...] = draw.standard_normal(shape)
    return array


def multiply(cut: Sequence[products.Piece]) -> None:
    """One product, piece by piece."""
    for piece in cut:
        np.matmul(*piece)


if __name__ == "__main__":
    main()
