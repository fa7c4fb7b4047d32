"""AdamW (Loshchilov and Hutter, arXiv 1711.05101): decoupled weight decay, in place.

As in PyTorch: p -= lr decay p, then p -= lr m^ / (sqrt(v^) + eps), with bias-corrected moments.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge_runtime.allocate import zeros

Array = np.ndarray[Any, Any]

# Moments whose gradient stays 0 shrink until they are denormal, and there rounding keeps them for
# ever; many processors are slow at those. Below TINY they are 0: what they would add to a parameter
# is far below float32's resolution, and 64 updates shrink one a thousandfold at most.
TINY = 1e-30
FLUSH_EVERY = 64  # updates
CHUNK = 16384  # entries a pass: the work space stays in the L1 and L2 caches


def gradient_norm(gradient: Array) -> float:
    """Euclidean norm of a flat gradient; not finite where an entry is not, or where squares of
    entries pass what their dtype holds, which would spoil AdamW's moments."""
    parts = (gradient[start : start + CHUNK] for start in range(0, gradient.size, CHUNK))
    return math.sqrt(sum(float(np.dot(part, part)) for part in parts))


def clip(gradient: Array, norm: float, largest: float) -> None:
    """Scales a gradient of that norm down to the largest allowed, as PyTorch does."""
    if norm > largest:
        np.multiply(gradient, largest / (norm + 1e-6), gradient)


class AdamW:
    """Moments of one flat parameter vector, whose first `decayed` entries feel weight decay."""

    def __init__(
        self,
        parameters: Array,
        gradient: Array,
        *,
        decayed: int,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        self.parameters, self.gradient = parameters, gradient
        self.decayed, self.weight_decay = decayed, weight_decay
        self.betas, self.eps = betas, eps
        self.first = zeros(parameters.shape, parameters.dtype)
        self.second = zeros(parameters.shape, parameters.dtype)
        self.steps = 0
        self._work = np.empty(min(CHUNK, parameters.size), parameters.dtype)

    def step(self, rate: float) -> None:
        """One update with learning rate `rate`."""
        self.steps += 1
        beta1, beta2 = self.betas
        # size m / (sqrt(v) + eps), with the corrections of both moments taken out of the loop
        correction = math.sqrt(1 - beta2**self.steps)
        size, eps = rate / (1 - beta1**self.steps) * correction, self.eps * correction
        self.parameters[: self.decayed] *= 1 - rate * self.weight_decay
        for start in range(0, self.parameters.size, CHUNK):
            part = slice(start, start + CHUNK)
            p, g = self.parameters[part], self.gradient[part]
            m, v = self.first[part], self.second[part]
            work = self._work[: p.size]
            m *= beta1
            np.multiply(g, 1 - beta1, work)
            m += work
            v *= beta2
            np.multiply(g, g, work)
            work *= 1 - beta2
            v += work
            np.sqrt(v, work)
            work += eps
            np.divide(m, work, work)
            work *= size
            p -= work
            if self.steps % FLUSH_EVERY == 0:
                np.putmask(m, np.abs(m, work) < TINY, 0)
                np.putmask(v, v < TINY, 0)
