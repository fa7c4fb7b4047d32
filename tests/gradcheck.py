"""Gradients against central differences along one random direction (as HIPS autograd does)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def directional_error(
    loss: Callable[[], float],
    parameters: Mapping[str, Array],
    gradients: Mapping[str, Array],
    seed: int = 0,
    step: float = 1e-5,
) -> float:
    """Relative difference between gradient . direction and the loss's slope along it, float64.

    `loss` reads `parameters` as they are then; they are left as they were.
    """
    rng = np.random.default_rng(seed)
    start = {name: array.copy() for name, array in parameters.items()}
    direction = {name: rng.standard_normal(a.shape) for name, a in parameters.items()}
    expected = sum(float((gradients[name] * d).sum()) for name, d in direction.items())

    def at(distance: float) -> float:
        for name, array in parameters.items():
            array[...] = start[name] + distance * direction[name]
        return loss()

    slope = (at(step) - at(-step)) / (2 * step)
    at(0.0)
    return abs(slope - expected) / max(abs(slope), abs(expected))
