"""Learning rate over the run: linear warm-up, then a half cosine to zero."""

from __future__ import annotations

import math


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Rate of step `step` (from 0) of `steps`; `warmup` is the fraction of steps that rise."""
    rising = int(steps * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
