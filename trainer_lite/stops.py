"""Why a run may end before its end.

StoppedError             an EdgeError; `result` is what the run had come to
├── BudgetPassedError    it took more memory than its budget
├── NotFiniteError       steps whose loss or gradient is not finite, one after the other
└── InterruptedRunError  it was asked to stop
"""

from __future__ import annotations

from edge_runtime.errors import BudgetError, DataError, EdgeError
from trainer_lite.reports import TrainResult


class StoppedError(EdgeError):
    """A run stopped.

    `learnt`: whether what it has is worth keeping. `result` is then what it had come to, and
    `saved` says whether a checkpoint holds its state.
    """

    def __init__(self, message: str, *, learnt: bool = True):
        super().__init__(message)
        self.learnt = learnt
        self.result: TrainResult | None = None
        self.saved = False


class BudgetPassedError(StoppedError, BudgetError):
    """A run stopped because it passed its memory budget."""


class NotFiniteError(StoppedError, DataError):
    """A run stopped because step after step had to be skipped."""


class InterruptedRunError(StoppedError):
    """A run stopped because it was asked to."""
