"""A step as a flat list of operations on buffers that are bound once.

Building a program names its buffers and its operations in the order in which they run; running it
only calls functions. Nothing is allocated, sliced or decided while it runs, and whoever hands out
the buffers decides where they lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from edge_runtime.allocate import zeros

Array = np.ndarray[Any, Any]


class Workspace:
    """Named buffers, each allocated once and handed out as views of any shape that fits."""

    def __init__(self, dtype: Any = np.float32) -> None:
        self.dtype = np.dtype(dtype)
        self._buffers: dict[str, Array] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """The buffer `name` seen as `shape`; the first call sets how large it is."""
        size = math.prod(shape)
        if name not in self._buffers:
            kind = self.dtype if dtype is None else np.dtype(dtype)
            self._buffers[name] = self._allocate(name, size, kind)
        buffer = self._buffers[name]
        if size > buffer.size:
            raise ValueError(f"buffer {name!r} holds {buffer.size} entries, {size} were asked for")
        return buffer[:size].reshape(shape)

    def _allocate(self, name: str, size: int, dtype: np.dtype[Any]) -> Array:
        """Room for `size` entries; where it lies is all that kinds of workspace differ in."""
        return zeros((size,), dtype)

    @property
    def buffers(self) -> dict[str, Array]:
        """Every buffer handed out so far, by name, at its full size."""
        return self._buffers

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(buffer.nbytes for buffer in self._buffers.values())


class SharingWorkspace(Workspace):
    """A workspace of its own, but for one buffer, which is that of another workspace."""

    def __init__(self, other: Workspace, shared: str):
        super().__init__(other.dtype)
        self._other, self._shared = other, shared

    def array(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> Array:
        if name == self._shared:
            return self._other.array(name, shape, dtype)
        return super().array(name, shape, dtype)


class Program:
    """Operations in the order in which they run."""

    def __init__(self) -> None:
        self._operations: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._uses: list[tuple[Array, ...]] = []
        self._sections: list[tuple[int, str]] = []

    def section(self, name: str) -> None:
        """Names the operations that follow, for people: "phase: what is done"."""
        self._sections.append((len(self._operations), name))

    def emit(
        self, function: Callable[..., Any], *arguments: Any, uses: tuple[Array, ...] = ()
    ) -> None:
        """Appends `function(*arguments)`; the arguments are bound now.

        `uses` names the arrays that it touches besides its arguments: where a buffer lies is
        planned from what the operations say they touch.
        """
        self._operations.append((function, arguments))
        self._uses.append(uses)

    def run(self) -> None:
        for function, arguments in self._operations:
            function(*arguments)

    @property
    def operations(self) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
        """(function, arguments) of each operation, in order."""
        return self._operations

    @property
    def sections(self) -> list[str]:
        """Name of the section of each operation, in order."""
        names, current, starts = [], "", dict(self._sections)
        for index in range(len(self._operations)):
            current = starts.get(index, current)
            names.append(current)
        return names

    def touched(self) -> Iterator[list[Array]]:
        """The arrays that each operation touches, in the order in which they run."""
        for (_, arguments), uses in zip(self._operations, self._uses):
            yield [a for a in (*arguments, *uses) if isinstance(a, np.ndarray)]
