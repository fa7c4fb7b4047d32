"""Accuracy and confusion."""

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
    def accuracy(self) -> float:
        return float(np.trace(self.confusion) / max(1, self.confusion.sum()))

    @property
    def per_class(self) -> list[float | None]:
        """Accuracy of each class; None for a class without images."""
        totals = self.confusion.sum(axis=1)
        return [
            float(self.confusion[i, i] / total) if total else None for i, total in enumerate(totals)
        ]


def evaluation_of(labels: Array, predicted: Array, classes: int) -> Evaluation:
    """Counts predictions, both (rows,) class indices."""
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return Evaluation(confusion)
