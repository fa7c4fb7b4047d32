"""Accuracy, confusion, and of pixels the intersection over union."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Evaluation:
    """confusion[true, predicted] counts images, (classes, classes)."""

    confusion: Array

    @property
    def score(self) -> float:
        """What epochs are compared by."""
        return self.accuracy

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.confusion) / max(1, self.confusion.sum()))

    @property
    def per_class(self) -> list[float | None]:
        """Accuracy of each class; None for a class without images."""
        totals = self.confusion.sum(axis=1)
        return [
            float(self.confusion[i, i] / total) if total else None for i, total in enumerate(totals)
        ]


class PixelEvaluation(Evaluation):
    """confusion[true, predicted] counts pixels that have a class, (classes, classes)."""

    @property
    def score(self) -> float:
        return self.mean_iou

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that are there, in truth or in what was predicted."""
        found = [iou for iou in self.per_class_iou if iou is not None]
        return sum(found) / max(1, len(found))

    @property
    def per_class_iou(self) -> list[float | None]:
        """Intersection over union of each class; None for one that is nowhere."""
        both = np.diagonal(self.confusion)
        either = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) - both
        return [float(a / b) if b else None for a, b in zip(both, either)]


def evaluation_of(labels: Array, predicted: Array, classes: int) -> Evaluation:
    """Counts predictions, both (rows,) class indices."""
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return Evaluation(confusion)
