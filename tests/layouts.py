"""What layouts are measured against."""

from __future__ import annotations

from collections.abc import Sequence

from trainer_lite.plan import Lifetime, aligned


def live_peak(lifetimes: Sequence[Lifetime]) -> int:
    """Most bytes that are live at once: no layout can be smaller."""
    return max(
        (
            sum(aligned(b.nbytes) for b in lifetimes if b.first <= time.first <= b.last)
            for time in lifetimes
        ),
        default=0,
    )
