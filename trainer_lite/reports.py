"""What a training run tells: after a step, after an epoch, at its end."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.adaptor import Adaptor
from edge_runtime.metrics import Evaluation
from trainer_lite.budget import MemoryPlan


@dataclass(frozen=True)
class EpochReport:
    """What one epoch came to; accuracies are fractions, `rate` is images trained on a second.

    Loss and accuracy are means over the images of all steps that were not skipped; of kind
    segmentation over their labelled tokens, and `val_accuracy` is the mean IoU of pixels.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_accuracy: float | None
    rate: float


@dataclass(frozen=True)
class StepReport:
    """What one step came to; `accuracy` is the batch's, a fraction; `images` are those that the
    whole run has seen by now."""

    step: int
    steps: int
    images: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class TrainResult:
    """A finished run. `best` is the adaptor of the epoch with the best validation accuracy; None
    where there was no validation, or where `on_best` took it. `test` is of the last epoch: test
    never chooses anything. `seconds` are of the whole run, before and after it was resumed."""

    adaptor: Adaptor
    best: Adaptor | None
    history: list[EpochReport]
    test: Evaluation | None
    steps: int
    skipped_steps: int
    seconds: float
    peak_rss_bytes: int
    plan: MemoryPlan

    @property
    def best_epoch(self) -> EpochReport | None:
        """The first epoch with the best validation accuracy; None where there was none."""
        if not self.history or self.history[-1].val_accuracy is None:
            return None
        return max(self.history, key=lambda report: report.val_accuracy or 0.0)
