"""float16 to float32: our integer form against numpy's conversion, side by side.

python -m benchmarks.half_to_float
"""

from __future__ import annotations

import statistics

import click
import numpy as np

from benchmarks.timing import alternate, median_ratio
from edge_runtime.codecs import half_to_float


@click.command()
@click.option("--tokens", default=394, show_default=True, help="A tile of two images.")
@click.option("--dim", default=768, show_default=True)
@click.option("--repeats", default=300, show_default=True)
def main(tokens: int, dim: int, repeats: int) -> None:
    """Prints microseconds a tile of each, and the ratio."""
    half = (np.random.default_rng(0).standard_normal((tokens, dim)) * 4).astype(np.float16)
    out = np.empty(half.shape, np.float32)
    ours, numpys = alternate(
        [lambda: half_to_float(half, out), lambda: np.copyto(out, half)], repeats
    )
    click.echo(f"by integers {statistics.median(ours) * 1e6:8.1f} us")
    click.echo(f"numpy       {statistics.median(numpys) * 1e6:8.1f} us")
    click.echo(f"ratio       {median_ratio(ours, numpys):8.2f}")


if __name__ == "__main__":
    main()
