"""All that changes as a run trains: its vectors and its progress. It is what a checkpoint holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import FormatError
from trainer_lite.optim import AdamW
from trainer_lite.parameters import ParameterSet
from trainer_lite.progress import Progress

if TYPE_CHECKING:
    from trainer_lite.generation import Generation

Array = np.ndarray[Any, Any]


class State:
    """Parameters, moments, progress, and room for the best epoch's parameters, or None."""

    def __init__(self, parameters: ParameterSet, optimiser: AdamW, best: Array | None):
        self.parameters, self.optimiser, self.best = parameters, optimiser, best
        self.progress = Progress()

    def arrays(self) -> dict[str, Array]:
        """The vectors by name; the best only once there is one."""
        arrays = {
            "parameters": self.parameters.flat,
            "first_moment": self.optimiser.first,
            "second_moment": self.optimiser.second,
        }
        if self.progress.best is not None and self.best is not None:
            arrays["best"] = self.best
        return arrays

    def restore(self, saved: Generation, epochs: int, epoch_steps: int) -> None:
        """Takes over a saved state.

        Raises:
            FormatError: it cannot be one of a run of so many epochs of so many steps.
        """
        progress = saved.progress
        done = len(progress.history)
        if done > epochs or not 0 <= progress.step - done * epoch_steps <= epoch_steps:
            raise FormatError(f"{saved.path}: its steps and epochs do not agree")
        self.progress = progress
        saved.read(self.arrays())
        self.optimiser.steps = progress.updates
