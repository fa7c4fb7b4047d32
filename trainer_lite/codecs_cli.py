"""`edgetune codecs`."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import click

from edge_runtime.cli.common import PATH, emit_json, json_option, progress, set_blas_threads
from trainer_lite.options import training_options


@click.command()
@click.argument("features", type=PATH)
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="Runs a codec.")
@training_options
@json_option
def codecs(
    features: Path,
    seeds: int,
    threads: int,
    memory_budget: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """What each codec costs on this task: bytes an image against accuracy.

    Trains on FEATURES (float32 or float16, with a val split) once a codec and seed, and recommends
    the smallest codec within one point of the best on val. Test is shown and never chosen by.
    Takes as long as that many runs of `edgetune train` with the same options.

    \b
    Example:
      edgetune codecs features --epochs 40
    """
    set_blas_threads()
    from edge_runtime.features import FeatureFolder
    from trainer_lite.config import TrainConfig
    from trainer_lite.frontier import candidates, frontier, recommended

    folder, config = FeatureFolder.open(features), TrainConfig(**options)
    chosen = range(config.seed, config.seed + seeds)
    with progress("training", len(candidates(folder)) * seeds) as advance:
        points = frontier(
            folder, config, chosen, advance, memory_budget=memory_budget, threads=threads
        )
    best = recommended(points)
    if as_json:
        listed = [
            {"codec": p.codec, "bytes_per_image": p.bytes_per_image, "val": p.val, "test": p.test}
            for p in points
        ]
        emit_json({"codecs": listed, "recommended": best.codec})
        return
    for point in points:
        test = f"  test {statistics.fmean(point.test):.4f}" if point.test else ""
        mark = "  <- recommended" if point is best else ""
        click.echo(
            f"{point.codec:16}{point.bytes_per_image:10,} bytes an image  val {point.mean_val:.4f}"
            f"{test}{mark}"
        )
