"""From lifetimes to offsets in one arena: a pure function, and the only one that decides.

Greedy by size: the largest buffer first, each at the lowest offset where it meets no buffer that
lives at the same time. (Pisarchyk and Lee, arXiv 2001.03288, compare such strategies.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `nbytes` bytes that holds something from operation `first` to `last`, both
    included."""

    name: str
    nbytes: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both hold something at some time."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Layout:
    """Offset of each buffer, in bytes, and what the arena holds in all."""

    lifetimes: tuple[Lifetime, ...]
    offsets: dict[str, int]
    nbytes: int


def plan_layout(lifetimes: Sequence[Lifetime]) -> Layout:
    """Places every buffer; no two that live at the same time overlap."""
    placed: list[tuple[int, int, Lifetime]] = []  # (start, end, buffer), by start
    offsets: dict[str, int] = {}
    for buffer in sorted(lifetimes, key=lambda b: (-b.nbytes, b.first, b.name)):
        size, offset = aligned(buffer.nbytes), 0
        for start, end, other in placed:
            if not buffer.meets(other):
                continue
            if offset + size <= start:
                break
            offset = max(offset, end)
        offsets[buffer.name] = offset
        placed.append((offset, offset + size, buffer))
        placed.sort(key=lambda entry: entry[0])
    total = max((end for _, end, _ in placed), default=0)
    return Layout(tuple(lifetimes), offsets, total)


def aligned(nbytes: int) -> int:
    """The next multiple of ALIGNMENT."""
    return nbytes + -nbytes % ALIGNMENT
