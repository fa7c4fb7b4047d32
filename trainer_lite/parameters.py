"""The trained parameters and their start values, in one flat vector."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from edge_runtime.allocate import zeros
from edge_runtime.config import AdaptorConfig, is_matrix
from trainer_lite.draws import draws

Array = np.ndarray[Any, Any]


def trained_part(config: AdaptorConfig, *, head_only: bool) -> AdaptorConfig:
    """What is trained of an adaptor, as the shape of an adaptor: all of it, or its head alone."""
    return replace(config, kind="linear", rank=0, blocks=0, heads=1) if head_only else config


class ParameterSet:
    """All parameters in one vector; names map to views of it.

    Matrices come first: the first `decayed` entries are those that feel weight decay.
    """

    def __init__(self, config: AdaptorConfig, dtype: Any = np.float32):
        shapes = config.parameter_shapes()
        self.flat = zeros((config.parameter_count(),), dtype)
        self.decayed = sum(math.prod(s) for name, s in shapes.items() if is_matrix(name))
        self.values = views(config, self.flat)

    def initialise(self, seed: int) -> None:
        """Start values (our choice; the papers leave them open).

        U and the head start at zero, so that training starts as a linear probe of a uniform
        guess; W is uniform with variance 1 / embed_dim. Python's generator is used: numpy.random
        costs 6.8 MB of resident memory.
        """
        self.flat.fill(0.0)
        for name in ("blocks.norm_weight", "head.norm_weight"):
            if name in self.values:
                self.values[name].fill(1.0)
        if "blocks.qkv" in self.values:
            qkv = self.values["blocks.qkv"].reshape(-1)
            bound = math.sqrt(3.0 / self.values["blocks.qkv"].shape[2])
            draw = draws(f"start {seed}")
            for start in range(0, qkv.size, 1024):
                part = qkv[start : start + 1024]
                part[:] = [bound * (2 * draw() - 1) for _ in range(part.size)]


def views(config: AdaptorConfig, flat: Array) -> dict[str, Array]:
    """Every parameter by name, as a view of one flat vector."""
    found, offset = {}, 0
    for name, shape in config.parameter_shapes().items():
        size = math.prod(shape)
        found[name] = flat[offset : offset + size].reshape(shape)
        offset += size
    return found
