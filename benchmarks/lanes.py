"""Tiles side by side in threads against one tile at a time: ratios of steps taken in turns.

python -m benchmarks.lanes --threads 2
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path

import click

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in training

from benchmarks.timing import alternate, median_ratio
from edge_runtime.codecs import CODECS
from edge_runtime.made_up import write_made_up
from edge_runtime.program import Workspace
from edge_runtime.weights import FusedWeights
from trainer_lite.build import StepShape, fastest_tile, planned_step
from trainer_lite.config import TrainConfig
from trainer_lite.data import prepare
from trainer_lite.parameters import ParameterSet
from trainer_lite.profiler import Steps


@click.command()
@click.option("--tokens", default=197, show_default=True)
@click.option("--dim", default=768, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--repeats", default=25, show_default=True)
def main(tokens: int, dim: int, threads: int, repeats: int) -> None:
    """Prints the step at several tiles, and its ratio to one thread at its own best tile."""
    config = TrainConfig()
    with tempfile.TemporaryDirectory() as folder:
        shape = {"tokens": tokens, "embed_dim": dim, "classes": 100}
        features = write_made_up(Path(folder), CODECS["float16"], rows=64, **shape)
        data = prepare(config, features)
        alone = fastest_tile(tokens, config.batch_size)
        cases = [(1, alone), *((threads, alone * times) for times in (1, 2, 4, 8))]
        steps = []
        for lanes, tile in cases:
            parameters = ParameterSet(data.adaptor)
            parameters.initialise(0)
            weights = FusedWeights(data.adaptor, parameters.values, Workspace())
            planned = StepShape(config.batch_size, min(tile, config.batch_size), lanes=lanes)
            step, _ = planned_step(weights, data.source, planned)
            steps.append(Steps(step, config, data.adaptor, parameters))
        seconds = alternate(list(steps), repeats)
    for (lanes, tile), taken in zip(cases, seconds):
        ratio = median_ratio(taken, seconds[0])
        milliseconds = statistics.median(taken) * 1e3
        click.echo(
            f"{lanes} thread(s), tiles of {tile:3}: {milliseconds:8.1f} ms a step, {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
