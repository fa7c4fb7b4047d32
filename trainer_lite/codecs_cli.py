"""`edgetune codecs`."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import click

from edge_runtime.cli.common import PATH, emit_json, json_option, progress, set_blas_threads
from trainer_lite.options import training_options


@click.command()
@click.argument("features", type=PATH)
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="Runs a codec.")
@click.option(
    "--basis",
    "bases",
    multiple=True,
    type=click.IntRange(0),
    help="Numbers a token in a basis to try; may be repeated; 0 for none.  [default: half]",
)
@training_options
@json_option
def codecs(
    features: Path,
    seeds: int,
    bases: tuple[int, ...],
    threads: int,
    memory_budget: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """What each codec costs on this task: bytes an image against accuracy.

    Trains on FEATURES (float32 or float16, with a val split) once a codec and seed, and recommends
    the smallest codec within one point of the best on val. Test is shown and never chosen by.
    Takes as long as that many runs of `edgetune train` with the same options.

    int8 and int4 are tried in a basis too, of half as many numbers a token: `edgetune transcode`
    says what that is, and stores the features in what was chosen.

    \b
    Example:
      edgetune codecs features --epochs 40 --basis 64 --basis 96
    """
    set_blas_threads()
    from edge_runtime.features import FeatureFolder
    from trainer_lite.config import TrainConfig
    from trainer_lite.frontier import candidates, frontier, recommended

    folder, config = FeatureFolder.open(features), TrainConfig(**options)
    chosen = range(config.seed, config.seed + seeds)
    half = folder.embed_dim // 2
    widths = [width for width in bases or (half if half > 1 else 0,) if width]
    with progress("training", len(candidates(folder, widths)) * seeds) as advance:
        points = frontier(
            folder,
            config,
            chosen,
            advance,
            widths=widths,
            memory_budget=memory_budget,
            threads=threads,
        )
    best = recommended(points)
    if as_json:
        listed = [dataclasses.asdict(point) for point in points]
        emit_json({"codecs": listed, "recommended": best.codec, "recommended_basis": best.basis})
        return
    for point in points:
        test = f"  test {statistics.fmean(point.test):.4f}" if point.test else ""
        mark = "  <- recommended" if point is best else ""
        click.echo(
            f"{point.name:24}{point.bytes_per_image:10,} bytes an image  val {point.mean_val:.4f}"
            f"{test}{mark}"
        )
    basis = "" if best.basis is None else f" --basis {best.basis}"
    click.echo(f"to store so: edgetune transcode {features} --codec {best.codec}{basis} --out OUT")
