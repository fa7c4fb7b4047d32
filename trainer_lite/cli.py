"""`edgetune train`."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.common import PATH, emit_json, force_option, json_option, progress, say

if TYPE_CHECKING:
    from trainer_lite.trainer import EpochReport, StepReport, TrainResult


@click.command()
@click.argument("features", type=PATH)
@click.option("--out", required=True, type=PATH, help="The adaptor file to write.")
@click.option("--rank", default=8, show_default=True, help="Rank of each block's attention.")
@click.option("--blocks", default=4, show_default=True, help="Low-rank attention blocks.")
@click.option("--heads", default=1, show_default=True, help="Heads; rank must divide by it.")
@click.option(
    "--pool",
    type=click.Choice(["mean", "cls"]),
    default="mean",
    show_default=True,
    help="What the head sees: the mean of the patch tokens, or the class token.",
)
@click.option(
    "--kind",
    type=click.Choice(["attention", "linear"]),
    default="attention",
    show_default=True,
    help="The adaptor, or a linear probe on the same features.",
)
@click.option("--epochs", default=100, show_default=True, help="Passes over the training images.")
@click.option("--batch-size", default=32, show_default=True, help="Images a step of the optimiser.")
@click.option("--lr", type=float, help="Peak learning rate. [default: 3e-3; linear: 1e-2]")
@click.option("--weight-decay", default=0.05, show_default=True, help="On matrices only.")
@click.option("--warmup", default=0.1, show_default=True, help="Fraction of steps that warm up.")
@click.option(
    "--fit-on",
    type=click.Choice(["train", "train+val"]),
    default="train",
    show_default=True,
    help="train+val leaves nothing to validate on.",
)
@click.option("--label-smoothing", default=0.0, show_default=True, help="0 to below 1; 0 is none.")
@click.option("--drop-path", default=0.0, show_default=True, help="Chance to drop a block.")
@click.option("--seed", default=0, show_default=True, help="Of start values, order and drop-path.")
@click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(1), help="BLAS threads."
)
@force_option
@json_option
def train(
    features: Path, out: Path, threads: int, force: bool, as_json: bool, **options: Any
) -> None:
    """Train an adaptor on FEATURES, a folder that `edgetune extract` wrote.

    The file OUT holds the last epoch. Where there is a val split, the epoch that did best on it is
    kept beside it, as OUT with `.best` before its suffix. The test split, if there is one, is only
    reported.

    \b
    Example:
      edgetune train features --out adaptor.safetensors --epochs 60
    """
    set_blas_threads(threads)
    from edge_runtime.atomic import refuse_unwritable
    from edge_runtime.features import FeatureFolder
    from trainer_lite.config import TrainConfig
    from trainer_lite.trainer import Trainer

    refuse_unwritable(out, force=force)
    best_out = out.with_name(f"{out.stem}.best{out.suffix}")
    config = TrainConfig(**options)
    folder = FeatureFolder.open(features)
    if "val" in folder.split_names and config.fit_on == "train":
        refuse_unwritable(best_out, force=force)
    trainer = Trainer(config)
    images = folder.split("train").rows * config.epochs
    if config.fit_on == "train+val" and "val" in folder.split_names:
        images += folder.split("val").rows * config.epochs
    with progress("training", images) as advance:
        reporter = Reporter(advance, config.epochs)
        trainer.on_step, trainer.on_epoch = reporter.on_step, reporter.on_epoch
        result = trainer.fit(folder)
    result.adaptor.save(out)
    if result.best is not None:
        result.best.save(best_out)
    summary = summarise(result)
    if as_json:
        emit_json({"adaptor": str(out), **summary})
        return
    click.echo(f"{out}: {summary['parameters']} trainable parameters, {result.steps} steps")
    for name in ("test_accuracy", "val_accuracy", "best_val_accuracy"):
        if summary[name] is not None:
            click.echo(f"{name.replace('_', ' ')}: {summary[name]:.4f}")
    if result.best is not None:
        click.echo(f"best epoch on val ({summary['best_epoch']}): {best_out}")
    click.echo(
        f"{summary['images_per_second']:.0f} images/s, {result.seconds:.1f} s, "
        f"peak RSS {result.peak_rss_bytes / 2**20:.1f} MiB"
    )


class Reporter:
    """Turns the trainer's reports into a progress note and a line an epoch."""

    def __init__(self, advance: Any, epochs: int):
        self.advance, self.epochs = advance, epochs
        self.loss: float | None = None
        self.accuracy = 0.0
        self.images, self.started = 0, time.monotonic()

    def on_step(self, report: StepReport) -> None:
        """Smooths loss and accuracy over about ten steps, and moves the bar."""
        keep = 0.0 if self.loss is None else 0.9
        self.loss = keep * (self.loss or 0.0) + (1 - keep) * report.loss
        self.accuracy = keep * self.accuracy + (1 - keep) * report.accuracy
        self.images += report.images
        rate = self.images / max(time.monotonic() - self.started, 1e-9)
        note = f"loss {self.loss:.3f}, accuracy {self.accuracy:.3f}, {rate:.0f} images/s"
        self.advance(report.images, note)

    def on_epoch(self, report: EpochReport) -> None:
        """About ten lines a run."""
        if report.epoch % max(1, self.epochs // 10) and report.epoch != self.epochs:
            return
        val = "" if report.val_accuracy is None else f", val {report.val_accuracy:.3f}"
        say(
            f"epoch {report.epoch}/{self.epochs}: loss {report.train_loss:.4f}, "
            f"train {report.train_accuracy:.3f}{val}, {report.rate:.0f} images/s"
        )


def summarise(result: TrainResult) -> dict[str, Any]:
    """The run as one JSON object; accuracies are fractions."""
    last, best = result.history[-1], result.best_epoch
    return {
        "test_accuracy": None if result.test is None else result.test.accuracy,
        "val_accuracy": last.val_accuracy,
        "best_val_accuracy": None if best is None else best.val_accuracy,
        "best_epoch": None if best is None else best.epoch,
        "train_loss": last.train_loss,
        "train_accuracy": last.train_accuracy,
        "parameters": result.adaptor.config.parameter_count(),
        "epochs": len(result.history),
        "steps": result.steps,
        "seconds": result.seconds,
        "images_per_second": last.rate,
        "peak_rss_bytes": result.peak_rss_bytes,
        "history": [dataclasses.asdict(report) for report in result.history],
    }


def set_blas_threads(threads: int) -> None:
    """BLAS reads these when numpy loads, so this comes first."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
