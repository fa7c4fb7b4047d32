"""A grid of runs trained together against the same runs one by one: ratios of seconds, in turns.

python -m benchmarks.sweep features

Start-up (opening, checking, planning) is not counted. Says, too, how far each run of the sweep is
from the single run with its options, and whether the best that was found is as good.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import click

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in training

from edge_runtime.features import FeatureFolder
from trainer_lite.config import TrainConfig
from trainer_lite.options import Values
from trainer_lite.reports import EpochReport, TrainResult
from trainer_lite.sweep import Sweep, SweepResult
from trainer_lite.trainer import Trainer


@click.command()
@click.argument("features", type=click.Path(path_type=Path))
@click.option("--lr", type=Values(float), default="1e-3,3e-3", show_default=True)
@click.option("--rank", type=Values(int), default="8", show_default=True)
@click.option("--weight-decay", type=Values(float), default="0.05,0.2,0.5,1", show_default=True)
@click.option("--epochs", default=8, show_default=True)
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
    axes = {"lr": lr, "rank": rank, "weight_decay": weight_decay}
    configs = Sweep(config, axes).configs
    together, halved = [], []
    for _ in range(repeats):
        singles = [Trainer(one, on_best=lambda adaptor: None).fit(folder) for one in configs]
        whole = Sweep(config, axes, halving=False).fit(folder)
        half = Sweep(config, axes).fit(folder)
        seconds = sum(single.seconds for single in singles)
        together.append(whole.seconds / seconds)
        halved.append(half.seconds / seconds)
        click.echo(
            f"one by one {seconds:.1f} s, together {whole.seconds:.1f} s, "
            f"with halving {half.seconds:.1f} s"
        )
    click.echo(f"{len(configs)} runs together / one by one: {spread(together)}")
    click.echo(f"with halving: {spread(halved)}")
    for name, result in (("all", whole), ("halved", half)):
        losses, accuracies = differences(result, singles)
        click.echo(
            f"{name}: runs against their single runs: losses differ by at most {losses:.1e} of "
            f"themselves, accuracies on val by {accuracies:.4f}"
        )
        found = result.winner.to_json()["best_val_accuracy"]
        click.echo(f"{name}: best on val {found:.4f}, of single runs {best_of(singles):.4f}")


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
