"""`edgetune train`."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.common import (
    PATH,
    emit_json,
    force_option,
    json_option,
    progress,
    say,
    set_blas_threads,
)
from trainer_lite.options import training_options

if TYPE_CHECKING:
    from trainer_lite.trainer import EpochReport, StepReport, TrainResult


@click.command()
@click.argument("features", type=PATH)
@click.option("--out", required=True, type=PATH, help="The adaptor file to write.")
@training_options
@force_option
@json_option
def train(
    features: Path,
    out: Path,
    threads: int,
    memory_budget: int | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train an adaptor on FEATURES, a folder that `edgetune extract` wrote.

    The file OUT holds the last epoch. Where there is a val split, the epoch that did best on it is
    kept beside it, as OUT with `.best` before its suffix, from the moment it is known. The test
    split, if there is one, is only reported.

    \b
    Example:
      edgetune train features --out adaptor.safetensors --epochs 60
    """
    set_blas_threads()
    from edge_runtime.atomic import refuse_unwritable
    from edge_runtime.errors import BudgetError
    from edge_runtime.features import FeatureFolder
    from trainer_lite.config import TrainConfig
    from trainer_lite.trainer import BudgetPassedError, Trainer

    refuse_unwritable(out, force=force)
    best_out = out.with_name(f"{out.stem}.best{out.suffix}")
    config = TrainConfig(**options)
    folder = FeatureFolder.open(features)
    if "val" in folder.split_names and config.fit_on == "train":
        refuse_unwritable(best_out, force=force)
    stopped = out.with_name(f"{out.stem}.stopped{out.suffix}")
    if memory_budget is not None:
        refuse_unwritable(stopped, force=force)
    trainer = Trainer(
        config,
        memory_budget=memory_budget,
        threads=threads,
        on_best=lambda adaptor: adaptor.save(best_out),
    )
    images = folder.split("train").rows * config.epochs
    if config.fit_on == "train+val" and "val" in folder.split_names:
        images += folder.split("val").rows * config.epochs
    with progress("training", images) as advance:
        reporter = Reporter(advance, config.epochs)
        trainer.on_step, trainer.on_epoch = reporter.on_step, reporter.on_epoch
        try:
            result = trainer.fit(folder)
        except BudgetPassedError as error:
            error.adaptor.save(stopped)
            raise BudgetError(f"{error}; what was learnt so far is in {stopped}") from None
    result.adaptor.save(out)
    summary = summarise(result)
    if as_json:
        emit_json({"adaptor": str(out), "memory_budget_bytes": memory_budget, **summary})
        return
    click.echo(f"{out}: {summary['parameters']} trainable parameters, {result.steps} steps")
    for name in ("test_accuracy", "val_accuracy", "best_val_accuracy"):
        if summary[name] is not None:
            click.echo(f"{name.replace('_', ' ')}: {summary[name]:.4f}")
    if result.best_epoch is not None:
        click.echo(f"best epoch on val ({summary['best_epoch']}): {best_out}")
    click.echo(
        f"{summary['images_per_second']:.0f} images/s, {result.seconds:.1f} s, "
        f"peak RSS {result.peak_rss_bytes / 2**20:.1f} MiB "
        f"(predicted {result.plan.predicted_peak_rss_bytes / 2**20:.1f}"
        + (f", budget {memory_budget / 2**20:.1f})" if memory_budget else ")")
    )


class Reporter:
    """Turns the trainer's reports into a progress note and a line an epoch."""

    def __init__(self, advance: Any, epochs: int):
        self.advance, self.epochs = advance, epochs
        self.loss: float | None = None
        self.accuracy = 0.0
        self.images, self.started = 0, time.monotonic()
        self.val = ""

    def on_step(self, report: StepReport) -> None:
        """Smooths loss and accuracy over about ten steps, and moves the bar."""
        keep = 0.0 if self.loss is None else 0.9
        self.loss = keep * (self.loss or 0.0) + (1 - keep) * report.loss
        self.accuracy = keep * self.accuracy + (1 - keep) * report.accuracy
        self.images += report.images
        rate = self.images / max(time.monotonic() - self.started, 1e-9)
        note = f"loss {self.loss:.3f}, accuracy {self.accuracy:.3f}{self.val}, {rate:.0f} images/s"
        self.advance(report.images, note)

    def on_epoch(self, report: EpochReport) -> None:
        """About ten lines a run, where no bar is drawn; the bar shows validation too."""
        if report.val_accuracy is not None:
            self.val = f", val {report.val_accuracy:.3f}"
        due = report.epoch == self.epochs or report.epoch % max(1, self.epochs // 10) == 0
        if sys.stderr.isatty() or not due:
            return
        say(
            f"epoch {report.epoch}/{self.epochs}: loss {report.train_loss:.4f}, "
            f"train {report.train_accuracy:.3f}{self.val}, {report.rate:.0f} images/s"
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
        "predicted_peak_rss_bytes": result.plan.predicted_peak_rss_bytes,
        "arena_bytes": result.plan.arena_bytes,
        "tile_images": result.plan.tile_images,
        "history": [dataclasses.asdict(report) for report in result.history],
    }
