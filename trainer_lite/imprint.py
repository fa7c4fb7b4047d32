"""Weight imprinting: rows of the head for classes that it was not trained on, without backprop.

Source: Qi, Brown and Lowe, Low-Shot Learning with Imprinted Weights, CVPR 2018 (arXiv 1712.07136).
There an embedding has unit length, so has each class's row, there are no biases, and one learnt
factor scales all logits. A new row is the mean of the class's embeddings, at unit length again.

Our head is a plain linear layer on what its LayerNorm gives, trained without such norms. What we
chose, so that a new row is to the trained ones what it is there (docs/adaptor.md):

- Softmax ignores what all rows share, and embeddings share a mean, which in a linear probe is most
  of their length: a raw mean embedding would win on every image. So the row is the mean trained row
  and, from there, the direction from the centre (mean of the old classes' mean embeddings) to the
  class's mean embedding, as long as the trained rows are from their mean, on average.
- The bias gives the new logit at the centre the old logits' mean there: no class is preferred.
- With no image of an old class there is no centre: then the direction is that of the class's mean
  embedding, and its bias makes the class as likely as all old ones together, over its own images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime.predictor import Predictor
from edge_runtime.sources import FeatureSource

Array = np.ndarray[Any, Any]


def imprint(
    weight: Array,
    bias: Array,
    new: Sequence[int],
    predictor: Predictor,
    sources: Sequence[FeatureSource],
) -> Array:
    """Makes rows of a head in place, where they also serve as the sums: it takes no more memory.

    Args:
        weight, bias: (K, d) and (K,), those that `predictor` computes with.
        new: the rows to make, of classes with images; two others at least are there.
        sources: images of new classes, and of old ones if there are any.

    Returns:
        How many images of each class there were, (K,).
    """
    counts = counted(sources, len(bias))
    is_new = np.isin(np.arange(len(bias)), new)
    share = np.ones(len(bias)) / np.maximum(counts, 1)  # each class's images weigh as much
    share[~is_new] /= max(1, int(np.count_nonzero(counts[~is_new])))
    centre, reached = np.zeros(weight.shape[1]), np.zeros(len(bias))
    weight[is_new] = 0.0
    for source in sources:
        labels = source.labels
        for part, embedded, logits in predictor.embed(source):
            classes, shares = labels[part], share[labels[part]]
            fresh = is_new[classes]
            centre += shares[~fresh] @ embedded[~fresh]
            levels = np.logaddexp.reduce(logits[:, ~is_new], axis=1)
            np.add.at(reached, classes, shares * levels)
            part_means = (embedded * shares[:, None]).astype(weight.dtype)
            np.add.at(weight, classes[fresh], part_means[fresh])
    old = np.flatnonzero(~is_new)
    shared = np.add.reduce(weight[old], axis=0, dtype=np.float64) / len(old)
    length = sum(float(np.linalg.norm(weight[row] - shared)) for row in old) / len(old)
    held_against = bool(counts[old].any())
    for row in new:
        mean = weight[row].astype(np.float64)
        direction = mean - centre  # the centre is 0 where there is none
        step = direction * (length / max(float(np.linalg.norm(direction)), 1e-30))
        weight[row] = shared + step
        if held_against:
            bias[row] = bias[old].mean() - step @ centre
        else:
            bias[row] = reached[row] - weight[row] @ mean
    return counts


def counted(sources: Sequence[FeatureSource], classes: int) -> Array:
    """Images of each class, (classes,)."""
    counts = np.zeros(classes, np.int64)
    for source in sources:
        counts += np.bincount(source.labels, minlength=classes)
    return counts
