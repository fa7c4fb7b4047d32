"""How far a run has come: all of its state beside the large vectors."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import formats
from edge_runtime.errors import FormatError
from trainer_lite.reports import EpochReport

Array = np.ndarray[Any, Any]

COUNTS = ("step", "updates", "skipped", "skipped_in_a_row", "correct", "images", "counted")
COLUMNS = 4  # of the history: loss and accuracy in training, accuracy in validation, rate


@dataclass
class Progress:
    """Where a run stands, between two steps.

    The order of the images and drop-path are drawn anew for each epoch and step from the seed, so
    `step` and the epochs that ended are all there is to know about them.

    Args:
        step: steps done, skipped ones too. updates: steps that changed the parameters.
        skipped: steps that were skipped. skipped_in_a_row: those since the last update.
        loss, correct, images: of this epoch so far, summed; skipped steps do not count.
        counted: what loss and correct are sums over: images, or tokens that have a label.
        epoch_seconds, seconds: spent on this epoch's training, and on the run.
        best: the best validation score so far: accuracy, or mean IoU.
        history: a report for each epoch that ended.
    """

    step: int = 0
    updates: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    loss: float = 0.0
    correct: int = 0
    images: int = 0
    counted: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    best: float | None = None
    history: list[EpochReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start_clock()

    @property
    def epoch(self) -> int:
        """The epoch at work, from 1."""
        return len(self.history) + 1

    def snapshot(self) -> Progress:
        """A copy that stays as it is."""
        return replace(self, history=list(self.history))

    def start_clock(self) -> None:
        """Counts time from now on."""
        self._clock = time.monotonic()

    def spend(self, *, training: bool) -> None:
        """Counts the time since it was last counted."""
        now = time.monotonic()
        self.seconds += now - self._clock
        if training:
            self.epoch_seconds += now - self._clock
        self._clock = now

    def updated(self, loss: float, correct: int, images: int, counted: int) -> None:
        """Counts a step that changed the parameters; loss is summed over what is counted."""
        self.step += 1
        self.updates += 1
        self.skipped_in_a_row = 0
        self.loss += loss
        self.correct += correct
        self.images += images
        self.counted += counted

    def skip(self) -> None:
        """Counts a step that changed nothing."""
        self.step += 1
        self.skipped += 1
        self.skipped_in_a_row += 1

    def end_epoch(self, val_score: float | None) -> EpochReport:
        """Turns the sums of this epoch into its report and starts the next."""
        counted = max(self.counted, 1)
        rate = self.images / max(self.epoch_seconds, 1e-9)
        loss, accuracy = self.loss / counted, self.correct / counted
        report = EpochReport(self.epoch, loss, accuracy, val_score, rate)
        self.history.append(report)
        self.loss, self.correct, self.images, self.epoch_seconds = 0.0, 0, 0, 0.0
        self.counted = 0
        return report

    def to_json(self) -> formats.Json:
        """All but the history, which `history_array` gives."""
        return {key: value for key, value in asdict(self).items() if key != "history"}

    def history_array(self) -> Array:
        """The history as float64 (epochs, 4); NaN where an epoch had no validation."""
        rows = [
            (r.train_loss, r.train_accuracy, nan_for_none(r.val_accuracy), r.rate)
            for r in self.history
        ]
        return np.array(rows, np.float64).reshape(len(rows), COLUMNS)

    @classmethod
    def from_json(cls, content: formats.Json, history: Array, path: Path) -> Progress:
        """Reads what `to_json` and `history_array` gave; FormatError where it cannot be."""
        counts = {key: formats.whole(content, key, 0, path) for key in COUNTS}
        numbers = {
            key: float(formats.field(content, key, (int, float), path))
            for key in ("loss", "epoch_seconds", "seconds")
        }
        best = content.get("best")
        if best is not None:
            best = float(formats.field(content, "best", (int, float), path))
        if counts["updates"] + counts["skipped"] != counts["step"]:
            raise FormatError(f"{path}: steps and updates do not agree")
        reports = [
            EpochReport(epoch, loss, accuracy, None if math.isnan(val) else val, rate)
            for epoch, (loss, accuracy, val, rate) in enumerate(history.tolist(), 1)
        ]
        return cls(**counts, **numbers, best=best, history=reports)  # type: ignore[arg-type]


def nan_for_none(value: float | None) -> float:
    """NaN stands for what is not there."""
    return math.nan if value is None else value
