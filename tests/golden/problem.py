"""The problems behind tests/golden/training.json, made by formula: no generator to change."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge_runtime.config import AdaptorConfig, is_matrix
from tests.problems import config_of

Array = np.ndarray[Any, Any]

BATCH, STEPS, RATE = 6, 10, 1e-2
LABELS = [0, 1, 2, 3, 4, 0]
CONFIGS = {
    "mean": config_of(blocks=3, heads=2),
    "cls": config_of(blocks=2, pool="cls", rank=6),
    "linear": config_of(kind="linear"),
}


def wave(shape: tuple[int, ...], phase: float) -> Array:
    """Values in [-1, 1] that look random enough and are the same everywhere."""
    values = np.arange(math.prod(shape), dtype=np.float64)
    return np.sin(values * 12.9898 + np.square(values % 97) * 0.618 + phase).reshape(shape)


def features_of(config: AdaptorConfig) -> Array:
    """(BATCH, tokens, dim), with a mean and one outlying channel."""
    features = 6 * wave((BATCH, config.tokens, config.embed_dim), 0.5) + 1.5
    features[:, :, 0] += 20
    return features


def parameters_of(config: AdaptorConfig) -> dict[str, Array]:
    """Parameters of which none is zero."""
    return {
        name: 0.4 * wave(shape, len(name)) + (0.0 if is_matrix(name) else "weight" in name)
        for name, shape in config.parameter_shapes().items()
    }
