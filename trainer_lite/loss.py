"""Cross-entropy with label smoothing.

The target of class c is (1 - smoothing) [c = label] + smoothing / K, as in PyTorch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def cross_entropy(logits: Array, labels: Array, smoothing: float) -> float:
    """Summed loss of logits (B, K), labels (B,)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    picked = shifted[np.arange(len(labels)), labels]
    terms = log_sum - (1 - smoothing) * picked - smoothing * shifted.mean(axis=1)
    return float(terms.sum())


def cross_entropy_gradient(
    logits: Array, labels: Array, smoothing: float, batch: int, dlogits: Array
) -> None:
    """A tile's share of the gradient of the batch's mean loss, into dlogits (B, K).

    Args:
        batch: images of the whole batch, by which the gradient is divided.
    """
    np.subtract(logits, np.maximum.reduce(logits, 1, keepdims=True), dlogits)
    np.exp(dlogits, dlogits)
    dlogits /= np.add.reduce(dlogits, 1, keepdims=True) * batch
    if smoothing:
        dlogits -= smoothing / (batch * logits.shape[1])
    share = (1 - smoothing) / batch
    for row, label in enumerate(labels.tolist()):  # a tile has few images
        dlogits[row, label] -= share
