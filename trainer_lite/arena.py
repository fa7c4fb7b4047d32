"""One allocation that all buffers of a step lie in."""

from __future__ import annotations

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

    def _allocate(self, name: str, size: int, dtype: np.dtype[Any]) -> Array:
        start = self.layout.offsets[name]
        return self.memory[start : start + self._sizes[name]].view(dtype)
