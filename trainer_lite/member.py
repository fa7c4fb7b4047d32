"""One run of a sweep: its options, its state, and how it fared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_runtime.config import AdaptorConfig
from edge_runtime.program import Array
from trainer_lite.config import TrainConfig
from trainer_lite.halving import AXES
from trainer_lite.optim import AdamW
from trainer_lite.parameters import ParameterSet
from trainer_lite.progress import Progress
from trainer_lite.state import State


class Member:
    """One run. `state` is None once it was dropped; `ended` then says why, after which epoch.

    Args:
        index: its place in the grid. name: the options in which it differs from others.
    """

    def __init__(self, index: int, name: str, config: TrainConfig, adaptor: AdaptorConfig):
        self.index, self.name, self.config, self.adaptor = index, name, config, adaptor
        parameters = ParameterSet(adaptor)
        parameters.initialise(config.seed)
        optimiser = AdamW(
            parameters.flat,
            parameters.flat,  # the gradient's place is a step's to say
            decayed=parameters.decayed,
            weight_decay=config.weight_decay,
        )
        self.state: State | None = State(parameters, optimiser, None)
        self.progress: Progress = self.state.progress
        self.ended: str | None = None
        self.diverged = False

    @property
    def alive(self) -> State:
        """The state of a member that was not dropped."""
        assert self.state is not None
        return self.state

    def drop(self, why: str, *, diverged: bool = False) -> None:
        """Ends this run, and gives its vectors back."""
        self.state, self.ended, self.diverged = None, why, diverged

    def go_on(self, progress: Progress) -> None:
        """Stands where an earlier process stood; its vectors are read into the state."""
        state = self.alive
        self.progress = state.progress = progress
        state.optimiser.steps = progress.updates

    def take_gradient(self, gradient: Array) -> None:
        """Where the gradient is from now on."""
        self.alive.optimiser.gradient = gradient

    def to_json(self) -> dict[str, Any]:
        """Options, and what came of them; accuracies are fractions."""
        history = self.progress.history
        val = [report.val_accuracy for report in history]
        best = max(range(len(val)), key=lambda epoch: val[epoch] or 0.0, default=None)
        return {
            "options": {axis: self.config.to_json()[axis] for axis in AXES},
            "val_accuracy": val,
            "train_loss": [report.train_loss for report in history],
            "best_val_accuracy": None if best is None else val[best],
            "best_epoch": None if best is None else best + 1,
            "skipped_steps": self.progress.skipped,
            "dropped_after_epoch": None if self.ended is None else len(history),
            "dropped": self.ended,
            "diverged": self.diverged,
        }


def names_of(configs: Sequence[TrainConfig]) -> list[str]:
    """A short name for each: the options of the grid that are not the same for all."""
    named = {"lr": "lr", "rank": "rank", "seed": "seed", "weight_decay": "weight decay"}
    values = {
        axis: [c.rate if axis == "lr" else getattr(c, axis) for c in configs] for axis in AXES
    }
    varied = [axis for axis in AXES if len(set(values[axis])) > 1] or ["lr"]
    return [
        ", ".join(f"{named[axis]} {values[axis][index]:g}" for axis in varied)
        for index in range(len(configs))
    ]
