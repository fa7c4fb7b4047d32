"""A grid of runs trained together against the same runs one by one: ratios of seconds, in turns.

python -m benchmarks.sweep features

Start-up (opening, checking, planning) is not counted. Seconds are the processor's, which other work
on a shared machine disturbs less, and the clock's. Says, too, how far each run of the sweep is from
the single run with its options, and whether the best that was found is as good.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import click

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in training

from edge_runtime.features import FeatureFolder
from trainer_lite.config import TrainConfig
from trainer_lite.options import Values
from trainer_lite.reports import EpochReport, TrainResult
from trainer_lite.sweep import Sweep
from trainer_lite.sweep_report import SweepResult
from trainer_lite.trainer import Trainer


class Clocks:
    """Seconds of the processor and of the clock, from the first step that is reported on."""

    def __init__(self) -> None:
        self.started: tuple[float, float] | None = None

    def on_step(self, *report: Any) -> None:
        if self.started is None:
            self.started = time.process_time(), time.perf_counter()

    @property
    def seconds(self) -> tuple[float, float]:
        assert self.started is not None
        return time.process_time() - self.started[0], time.perf_counter() - self.started[1]


@click.command()
@click.argument("features", type=click.Path(path_type=Path))
@click.option("--lr", type=Values(float), default="1e-3,3e-3", show_default=True)
@click.option("--rank", type=Values(int), default="8", show_default=True)
@click.option("--weight-decay", type=Values(float), default="0.05,0.2,0.5,1", show_default=True)
@click.option("--epochs", default=20, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(
    features: Path,
    lr: list[float],
    rank: list[int],
    weight_decay: list[float],
    epochs: int,
    repeats: int,
) -> None:
    """Prints medians of the ratios, each with its least and its largest."""
    folder, config = FeatureFolder.open(features), TrainConfig(epochs=epochs)
    axes: dict[str, list[Any]] = {"lr": lr, "rank": rank, "weight_decay": weight_decay}
    configs = Sweep(config, axes).configs
    names = ("one by one", "together", "with halving")
    taken: list[list[tuple[float, float]]] = []
    for _ in range(repeats):
        singles, alone = [], []
        for one in configs:
            clocks = Clocks()  # a single run reports on its first step when it is done
            trainer = Trainer(one, on_step=clocks.on_step, on_best=lambda adaptor: None)
            singles.append(trainer.fit(folder))
            alone.append(clocks.seconds)
        whole, seconds = timed(folder, Sweep(config, axes, halving=False))
        half, halved = timed(folder, Sweep(config, axes))
        taken.append([(sum(a for a, _ in alone), sum(b for _, b in alone)), seconds, halved])
        for name, (processor, clock) in zip(names, taken[-1]):
            click.echo(f"{name:12}  {processor:7.1f} s of the processor, {clock:7.1f} s")
    for index, name in enumerate(names[1:], 1):
        ratios = [[turn[index][which] / turn[0][which] for turn in taken] for which in (0, 1)]
        click.echo(
            f"{len(configs)} runs {name} / one by one: {spread(ratios[0])} of the processor's "
            f"time, {spread(ratios[1])} of the clock's"
        )
    for name, result in (("together", whole), ("with halving", half)):
        losses, accuracies = differences(result, singles)
        found = result.winner.to_json()["best_val_accuracy"]
        click.echo(
            f"{name}: a run differs from its single run by at most {losses:.1e} of a loss and "
            f"{accuracies:.4f} of an accuracy on val; the best is {found:.4f}, of single runs "
            f"{best_of(singles):.4f}"
        )


def timed(folder: FeatureFolder, sweep: Sweep) -> tuple[SweepResult, tuple[float, float]]:
    clocks = Clocks()
    sweep.on_step = clocks.on_step
    return sweep.fit(folder), clocks.seconds


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def best_of(singles: list[TrainResult]) -> float:
    """The best accuracy on val of all epochs."""
    return max(report.val_accuracy or 0.0 for single in singles for report in single.history)


def differences(result: SweepResult, singles: list[TrainResult]) -> tuple[float, float]:
    """Largest relative difference of a loss, and largest of an accuracy on val, of any epoch."""
    pairs: list[tuple[EpochReport, EpochReport]] = []
    for member, single in zip(result.members, singles):
        pairs += zip(member.progress.history, single.history)
    losses = max(abs(a.train_loss - b.train_loss) / b.train_loss for a, b in pairs)
    return losses, max(abs((a.val_accuracy or 0.0) - (b.val_accuracy or 0.0)) for a, b in pairs)


if __name__ == "__main__":
    main()
