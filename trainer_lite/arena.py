"""One allocation that all buffers of a step lie in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge_runtime.program import Array, Workspace
from trainer_lite.plan import Layout


class Arena(Workspace):
    """A workspace whose buffers are views of `memory`, at the offsets of a layout."""

    def __init__(self, layout: Layout, memory: Array, dtype: Any = np.float32):
        super().__init__(dtype)
        self.layout, self.memory = layout, memory
        self._sizes = {buffer.name: buffer.nbytes for buffer in layout.lifetimes}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> Array:
        if name not in self._buffers:
            chosen = self.dtype if dtype is None else np.dtype(dtype)
            start = self.layout.offsets[name]
            self._buffers[name] = self.memory[start : start + self._sizes[name]].view(chosen)
        buffer, size = self._buffers[name], math.prod(shape)
        if size > buffer.size:
            raise ValueError(f"buffer {name!r} holds {buffer.size} entries, {size} were asked for")
        return buffer[:size].reshape(shape)
