"""What layouts are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime.program import Program, Workspace
from trainer_lite.arena import Arena
from trainer_lite.lane import Batch
from trainer_lite.plan import Lifetime, aligned
from trainer_lite.step import counted


def live_peak(lifetimes: Sequence[Lifetime]) -> int:
    """Most bytes that are live at once: no layout can be smaller."""
    return max(
        (
            sum(aligned(b.nbytes) for b in lifetimes if b.first <= time.first <= b.last)
            for time in lifetimes
        ),
        default=0,
    )


class Poisoned:
    """Runs programs in an arena, in which all that is dead turns to NaN before each operation."""

    def __init__(self, arena: Workspace):
        assert isinstance(arena, Arena)
        self.arena, self.position = arena, 0

    def run(self, program: Program) -> None:
        arena = self.arena
        for function, arguments in program.operations:
            live = np.zeros(arena.memory.size, bool)
            for buffer in arena.layout.lifetimes:
                if buffer.first <= self.position <= buffer.last:
                    start = arena.layout.offsets[buffer.name]
                    live[start : start + buffer.nbytes] = True
            arena.memory[~live] = 0xFF  # NaN, in either precision
            function(*arguments)
            self.position += 1

    def run_tiles(self, tile: Any, images: int, batch: int, labels: Any, drop: Any) -> None:
        """A batch of full tiles."""
        first = self.position
        for start in range(0, batch, images):
            self.position = first
            whole = Batch(np.arange(batch), labels, drop, counted(labels))
            tile.set(whole, slice(start, start + images))
            self.run(tile.program)
