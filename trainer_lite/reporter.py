"""What people see while a run trains: a bar on a terminal, elsewhere some lines."""

from __future__ import annotations

import sys
import time
from typing import Any

from edge_runtime.cli.common import say
from trainer_lite.reports import EpochReport, StepReport


class Reporter:
    """Turns the trainer's reports into a progress note and a line an epoch."""

    def __init__(self, advance: Any, epochs: int, score: str = "val"):
        self.advance, self.epochs, self.score = advance, epochs, score
        self.loss: float | None = None
        self.accuracy = 0.0
        self.images, self.step, self.started = 0, 0, time.monotonic()
        self.val = ""

    def on_step(self, report: StepReport) -> None:
        """Smooths loss and accuracy over about ten steps, and moves the bar."""
        keep = 0.0 if self.loss is None else 0.9
        self.loss = keep * (self.loss or 0.0) + (1 - keep) * report.loss
        self.accuracy = keep * self.accuracy + (1 - keep) * report.accuracy
        self.images += report.images
        rate = self.images / max(time.monotonic() - self.started, 1e-9)
        note = f"loss {self.loss:.3f}, accuracy {self.accuracy:.3f}{self.val}, {rate:.0f} images/s"
        self.advance(report.step - self.step, note)  # also over steps skipped, or done before
        self.step = report.step

    def on_epoch(self, report: EpochReport) -> None:
        """About ten lines a run, where no bar is drawn; the bar shows validation too."""
        if report.val_accuracy is not None:
            self.val = f", {self.score} {report.val_accuracy:.3f}"
        due = report.epoch == self.epochs or report.epoch % max(1, self.epochs // 10) == 0
        if sys.stderr.isatty() or not due:
            return
        say(
            f"epoch {report.epoch}/{self.epochs}: loss {report.train_loss:.4f}, "
            f"train {report.train_accuracy:.3f}{self.val}, {report.rate:.0f} images/s"
        )
