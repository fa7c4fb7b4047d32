"""When each buffer holds something, read off the operations that touch it.

The programs themselves say it, so a plan can never disagree with the code. A buffer is live from
the first to the last operation that touches it. The program in the middle of `before`, `tile`,
`after` runs many times a batch: what it shares with the others lives through all of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from edge_runtime.program import Array, Program, Workspace
from trainer_lite.plan import Lifetime


def lifetimes_of(workspace: Workspace, programs: Sequence[Program], loop: int) -> list[Lifetime]:
    """Lifetimes of all buffers of `workspace`, over `programs` run one after the other.

    Args:
        loop: index of the program that runs repeatedly.
    """
    owners = Owners(workspace.buffers)
    touches: dict[str, list[int]] = {name: [] for name in workspace.buffers}
    spans: list[tuple[int, int]] = []
    position = 0
    for program in programs:
        start = position
        for arrays in program.touched():
            for name in {owner for array in arrays if (owner := owners.of(array)) is not None}:
                touches[name].append(position)
            position += 1
        spans.append((start, position - 1))
    found = []
    for name, buffer in workspace.buffers.items():
        first, last = _live(touches[name], spans[loop], position)
        found.append(Lifetime(name, buffer.nbytes, first, last))
    return found


def _live(touches: list[int], loop: tuple[int, int], end: int) -> tuple[int, int]:
    if not touches:  # nobody said anything: keep it apart from all others
        return 0, end
    first, last = min(touches), max(touches)
    inside = [loop[0] <= touch <= loop[1] for touch in touches]
    if any(inside) and not all(inside):
        first, last = min(first, loop[0]), max(last, loop[1])
    return first, last


class Owners:
    """Which of some named buffers, apart from each other, an array is a view of."""

    def __init__(self, buffers: Mapping[str, Array]):
        held = {name: b for name, b in buffers.items() if b.nbytes}
        self._spans = sorted((address(b), address(b) + b.nbytes, n) for n, b in held.items())
        self._starts = [start for start, _, _ in self._spans]

    def of(self, array: Array) -> str | None:
        """The buffer's name; None for an array from elsewhere, or an empty one."""
        if not array.nbytes:
            return None
        index = bisect_right(self._starts, address(array)) - 1
        if index < 0 or address(array) >= self._spans[index][1]:
            return None
        return self._spans[index][2]


def address(array: Array) -> int:
    """Address of an array's first entry."""
    return int(array.__array_interface__["data"][0])
