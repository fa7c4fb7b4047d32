"""Times measured side by side, so that a drifting machine hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def alternate(functions: list[Callable[[], None]], repeats: int) -> list[list[float]]:
    """Seconds of each function, called in turn, `repeats` times after two warm-ups."""
    seconds: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 2):
        for times, function in zip(seconds, functions):
            before = time.perf_counter()
            function()
            if turn >= 2:
                times.append(time.perf_counter() - before)
    return seconds


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Median of the pairwise ratios."""
    return statistics.median(a / b for a, b in zip(first, second))


def cpu_flags() -> str:
    """The processor's feature flags, where Linux tells them."""
    try:
        with open("/proc/cpuinfo") as info:
            return next((line for line in info if line.startswith("flags")), "")
    except OSError:
        return ""
