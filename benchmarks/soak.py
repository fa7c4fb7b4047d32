"""A long run, watched: does memory grow, do files stay open, do late steps take longer?

    python -m benchmarks.soak --steps 20000

Small features, easy classes and no weight decay, so that most of the run is spent where gradients
are tiny and denormals would be met; checkpoints every two seconds. Speed is compared by processor
time, which other programs on the machine disturb less, and by wall time: of the pieces of the run's
first tenth and of its last, those that were disturbed least (the quickest tenth of them).
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edge_runtime.cli.common import set_blas_threads

PIECE = 50  # steps from sample to sample
ROWS = {"train": 512, "val": 64, "test": 64}
BATCH = 32
SHAPE: dict[str, Any] = {"tokens": 17, "embed_dim": 48, "classes": 4, "separation": 3.0}
SETTLED = 0.05  # of the steps: from then on memory is compared
MOST_GROWTH = 1 << 20  # bytes
SLOWEST = 1.05


@dataclass(frozen=True)
class Sample:
    """The process after a piece of the run; seconds are of that piece."""

    step: int
    rss: int
    files: int
    processor_seconds: float
    wall_seconds: float


class Watch:
    """Takes samples as the trainer goes."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._last = (time.process_time(), time.perf_counter())

    def on_step(self, report: Any) -> None:
        if report.step % PIECE:
            return
        from edge_runtime.memory import rss_bytes

        now = (time.process_time(), time.perf_counter())
        spent = [after - before for after, before in zip(now, self._last)]
        files = len(os.listdir("/proc/self/fd"))
        self.samples.append(Sample(report.step, rss_bytes(), files, *spent))
        self._last = (time.process_time(), time.perf_counter())


@click.command()
@click.option("--steps", default=20_000, show_default=True, type=click.IntRange(2000))
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(steps: int, threads: int, as_json: bool) -> None:
    """Trains, and prints what it saw; exits with 1 where memory, files or speed are not steady."""
    set_blas_threads()
    with tempfile.TemporaryDirectory() as folder:
        content = soak(Path(folder), steps, threads)
    if as_json:
        click.echo(json.dumps(content))
    else:
        for name, value in content.items():
            click.echo(f"{name:28}{value:.4g}" if isinstance(value, float) else f"{name:28}{value}")
    if not content["steady"]:
        raise SystemExit(1)


def soak(folder: Path, steps: int, threads: int) -> dict[str, Any]:
    """One long run; figures of its samples."""
    from edge_runtime.features import FeatureFolder
    from tests.feature_folders import write_features
    from trainer_lite.checkpoint import Checkpoints, Every
    from trainer_lite.config import TrainConfig
    from trainer_lite.trainer import Trainer

    write_features(folder / "features", rows=ROWS, shard_rows=200, **SHAPE)
    epochs = -(-steps * BATCH // ROWS["train"])
    watch = Watch()
    checkpoints = Checkpoints(folder / "run", Every(seconds=2))
    trainer = Trainer(
        TrainConfig(epochs=epochs, batch_size=BATCH, lr=3e-3, weight_decay=0.0, rank=4),
        on_step=watch.on_step,
        on_best=lambda adaptor: adaptor.save(folder / "best.safetensors"),
        threads=threads,
        checkpoints=checkpoints,
    )
    result = trainer.fit(FeatureFolder.open(folder / "features"))
    return {
        "steps": result.steps,
        "seconds": result.seconds,
        "train_loss": result.history[-1].train_loss,
        "checkpoints": checkpoints.written,
        "checkpoint_time_share": checkpoints.share,
        **figures(watch.samples),
    }


def figures(samples: list[Sample]) -> dict[str, Any]:
    """Growth of memory and files once settled; the last tenth's time over the first's."""
    settled = samples[int(len(samples) * SETTLED) :]
    tenth = max(1, len(samples) // 10)

    def ratio(name: str) -> float:
        first, last = (
            statistics.quantiles([getattr(sample, name) for sample in part], n=10)[0]
            for part in (samples[1 : tenth + 1], samples[-tenth:])
        )
        return last / first

    found: dict[str, Any] = {
        "rss_mib": settled[-1].rss / 2**20,
        "rss_spread_bytes": max(s.rss for s in settled) - min(s.rss for s in settled),
        "open_files_first": settled[0].files,
        "open_files_last": settled[-1].files,
        "processor_time_ratio": ratio("processor_seconds"),
        "wall_time_ratio": ratio("wall_seconds"),
    }
    found["steady"] = (
        found["rss_spread_bytes"] <= MOST_GROWTH
        and found["open_files_last"] <= found["open_files_first"]
        and found["processor_time_ratio"] <= SLOWEST
    )
    return found


if __name__ == "__main__":
    main()
