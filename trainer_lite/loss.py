"""Cross-entropy with label smoothing."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def cross_entropy(
    logits: Array, labels: Array, smoothing: float, batch: int, dlogits: Array
) -> float:
    """Summed loss of a tile, and its share of the gradient of the batch's mean loss.

    The target of class c is (1 - smoothing) [c = label] + smoothing / K, as in PyTorch.

    Args:
        logits: (B, K). dlogits: (B, K), overwritten. labels: (B,) integers.
        batch: images of the whole batch, by which the gradient is divided.
    """
    rows = np.arange(len(labels))
    classes = logits.shape[1]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    picked = shifted[rows, labels]
    loss = (log_sum - (1 - smoothing) * picked - smoothing * shifted.mean(axis=1)).sum()
    np.exp(shifted - log_sum[:, None], dlogits)
    dlogits -= smoothing / classes
    dlogits[rows, labels] -= 1 - smoothing
    dlogits /= batch
    return float(loss)
