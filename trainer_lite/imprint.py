"""Weight imprinting: rows of the head for classes that it was not trained on, without backprop.

Source: Qi, Brown and Lowe, Low-Shot Learning with Imprinted Weights, CVPR 2018 (arXiv 1712.07136).
There an embedding has unit length, so has each class's row, there are no biases, and one learnt
factor scales all logits. A new row is the mean of the class's embeddings, at unit length again.

Our head is a plain linear layer on what its LayerNorm gives, trained without such norms. What we
chose, so that a new row is to the trained ones what it is there (docs/adaptor.md):

- Softmax ignores what all rows share, and embeddings share a mean, which in a linear probe is most
  of their length: a raw mean embedding would win on every image. So the row is the mean trained row
  and, from there, the direction from the `centre` (mean of the old classes' mean embeddings) to the
  class's mean embedding, as long as the trained rows are from their mean, on average.
- The bias gives the new logit at the centre the old logits' mean there, as classes there are equal.
- With no image of an old class there is no centre: then the direction is that of the class's mean
  embedding, and its bias makes the class as likely as all old ones together, over its own images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.predictor import Predictor
from edge_runtime.sources import FeatureSource

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Head:
    """Rows of a linear head, (K, d) and (K,), float64."""

    weight: Array
    bias: Array

    @classmethod
    def of(cls, parameters: dict[str, Array], rows: Array | list[int]) -> Head:
        """A copy of some rows of an adaptor's."""
        weight, bias = parameters["head.weight"][rows], parameters["head.bias"][rows]
        return cls(weight.astype(np.float64), bias.astype(np.float64))


class Seen:
    """What is kept of the images of each class: how many, and the sums of their embeddings (d) and
    of the log-sum-exp of the old classes' logits, `level`."""

    def __init__(self, classes: int, embed_dim: int):
        self.counts = np.zeros(classes, np.int64)
        self.sums = np.zeros((classes, embed_dim))
        self.levels = np.zeros(classes)

    def look(self, predictor: Predictor, source: FeatureSource, old: Head) -> None:
        """Adds all rows of a source; holds a tile's embeddings at a time."""
        labels = source.labels
        for part, embedded in predictor.embed(source):
            logits = embedded @ old.weight.T + old.bias
            np.add.at(self.counts, labels[part], 1)
            np.add.at(self.sums, labels[part], embedded)
            np.add.at(self.levels, labels[part], np.logaddexp.reduce(logits, axis=1))

    def means(self, classes: list[int]) -> Array:
        """Mean embedding of each class, (len(classes), d)."""
        return np.asarray(self.sums[classes] / self.counts[classes, None])


def imprinted(seen: Seen, old: Head, new: list[int], others: list[int]) -> Head:
    """Rows for the classes `new`.

    Args:
        old: the trained rows, two at least.
        others: old classes with images, to find the centre by; none is allowed.
    """
    shared, level = old.weight.mean(axis=0), float(old.bias.mean())
    length = float(np.linalg.norm(old.weight - shared, axis=1).mean())
    means = seen.means(new)
    centre = seen.means(others).mean(axis=0) if others else np.zeros_like(shared)
    directions = means - centre
    norms = np.linalg.norm(directions, axis=1, keepdims=True)
    steps = length * directions / np.maximum(norms, np.finfo(np.float64).tiny)
    weight = shared + steps
    if others:
        return Head(weight, level - steps @ centre)
    reached = seen.levels[new] / seen.counts[new]
    return Head(weight, reached - np.einsum("kd,kd->k", weight, means))
