"""Steps whose loss or gradient is not finite: skipped, counted, and the end of a run that has
several in a row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from edge_runtime.config import AdaptorConfig
from trainer_lite.batches import epoch_batches
from trainer_lite.config import TrainConfig
from trainer_lite.optim import gradient_norm
from trainer_lite.progress import Progress
from trainer_lite.stops import NotFiniteError

Array = np.ndarray[Any, Any]

MOST_SKIPPED = 5  # steps in a row, or an epoch's, if that has fewer
SHOWN_ROWS = 8  # of a batch that is named


class Step(Protocol):
    """What is watched: a training step, or that of one of several that train together."""

    @property
    def config(self) -> AdaptorConfig: ...

    @property
    def gradient(self) -> Array: ...

    def run(self, rows: Array, labels: Array, drop: Array | None = None) -> tuple[float, int]: ...


class Skips:
    """Watches the steps of a run.

    `sound` is the progress before the first of the steps skipped in a row: the parameters and
    moments are still those of then.
    """

    def __init__(
        self,
        step: Step,
        labels: Array,
        config: TrainConfig,
        progress: Progress,
        warn: Callable[[str], None],
    ):
        self.step, self.labels, self.config = step, labels, config
        self.progress, self.warn = progress, warn
        self.epoch_steps = math.ceil(len(labels) / config.batch_size)
        self.sound = progress.snapshot()
        self._rows: Array | None = None  # of the last step that was not skipped
        if progress.updates:  # by an earlier process
            last = progress.step - progress.skipped_in_a_row - 1
            epoch, done = last // self.epoch_steps + 1, last % self.epoch_steps
            rows, size = len(labels), config.batch_size
            self._rows = next(epoch_batches(rows, size, config.seed, epoch, done))

    def passed(self, rows: Array) -> None:
        """Notes a batch that the parameters were updated with."""
        self._rows = rows

    def skip(self, rows: Array) -> None:
        """Counts a skipped step, and warns of it.

        Raises:
            NotFiniteError: there were too many in a row.
        """
        progress = self.progress
        if not progress.skipped_in_a_row:
            self.sound = progress.snapshot()
        batch = progress.step - (progress.epoch - 1) * self.epoch_steps + 1
        named = f"batch {batch} of epoch {progress.epoch} (rows {listed(rows)})"
        progress.skip()
        if progress.skipped_in_a_row < min(MOST_SKIPPED, self.epoch_steps):
            self.warn(
                f"warning: step {progress.step} is skipped, its loss or gradient is not finite: "
                f"{named}"
            )
            return
        self.check()
        raise NotFiniteError(
            f"{progress.skipped_in_a_row} steps in a row had to be skipped, as their loss or "
            f"gradient is not finite, the last with {named}; look for images unlike all others "
            f"there, or try --clip-norm",
            learnt=self._rows is not None or self.sound.updates > 0,
        )

    def check(self) -> None:
        """Says, of a run whose last steps were skipped, whether the parameters are to blame.

        Raises:
            NotFiniteError: not even a batch they were updated with gives a finite loss and
                gradient.
        """
        rows = self._rows
        if rows is None or not self.progress.skipped_in_a_row:
            return
        blocks, drop = self.step.config.blocks, None
        if self.config.drop_path > 0:
            drop = np.ones((blocks, len(rows)), np.float32)
        loss, _ = self.step.run(rows, self.labels[rows], drop)
        if not (math.isfinite(loss) and math.isfinite(gradient_norm(self.step.gradient))):
            first = self.progress.step - self.progress.skipped_in_a_row + 1
            raise NotFiniteError(
                f"loss or gradient stopped being finite at step {first}; try a lower "
                f"--lr (now {self.config.rate:g}) or --clip-norm",
                learnt=False,
            )


def listed(rows: Array) -> str:
    """The first rows of a batch."""
    more = ", ..." if len(rows) > SHOWN_ROWS else ""
    return ", ".join(str(row) for row in rows[:SHOWN_ROWS].tolist()) + more
