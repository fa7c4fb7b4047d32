"""Ten training steps on small problems, and what PyTorch gave for them (golden.json).

The problems are made by formula, so that there is no generator to change. Tests and
`edgetune selftest` compare with the figures; `tests/make_golden.py` makes them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.config import IGNORED, AdaptorConfig, is_matrix
from edge_runtime.program import Workspace
from edge_runtime.weights import FusedWeights
from trainer_lite.build import StepShape, planned_step
from trainer_lite.optim import AdamW
from trainer_lite.parameters import ParameterSet
from trainer_lite.step import counted

Array = np.ndarray[Any, Any]

FILE = Path(__file__).with_name("golden.json")
WEIGHT_DECAY = 0.05

BATCH, STEPS, RATE = 6, 10, 1e-2
LABELS = [0, 1, 2, 3, 4, 0]
PATCH_LABELS = [0, 1, 2, 3, IGNORED, 4, 0]  # going round the patch tokens of all images
CONFIGS = {
    "mean": AdaptorConfig("attention", 10, 1, 24, 5, 4, 3, 2, "mean", 1e-6, 3.7),
    "cls": AdaptorConfig("attention", 10, 1, 24, 5, 6, 2, 1, "cls", 1e-6, 3.7),
    "linear": AdaptorConfig("linear", 10, 1, 24, 5, 0, 0, 1, "mean", 1e-6, 3.7),
    "segmentation": AdaptorConfig("segmentation", 10, 1, 24, 5, 4, 3, 2, "mean", 1e-6, 3.7),
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


def labels_of(config: AdaptorConfig) -> Array:
    """A class an image, or where every token has logits one a patch token, some ignored."""
    if not config.dense:
        return np.array(LABELS)
    return np.resize(np.array(PATCH_LABELS, np.uint8), (BATCH, config.patch_tokens))


class GoldenSource:
    """The features of a problem as a FeatureSource, norms in full precision."""

    def __init__(self, config: AdaptorConfig, dtype: Any):
        self.features = features_of(config).astype(dtype)
        self.labels = labels_of(config)
        self.tokens, self.embed_dim = config.tokens, config.embed_dim

    def scratch_bytes(self, images: int) -> int:
        return 0

    def read(self, rows: Array, z: Array, norms: Array, scratch: Array) -> None:
        z[...] = self.features[rows]
        centred = z - z.mean(axis=2, keepdims=True)
        norms[...] = np.square(centred).sum(axis=2)


def golden_run(name: str, dtype: Any, tile: int) -> tuple[list[float], dict[str, Array]]:
    """Runs a problem here: (losses of ten steps, gradients of the first)."""
    config = CONFIGS[name]
    parameters = ParameterSet(config, dtype)
    for key, start in parameters_of(config).items():
        parameters.values[key][...] = start
    source = GoldenSource(config, dtype)
    weights = FusedWeights(config, parameters.values, Workspace(dtype))
    shape = StepShape(batch=BATCH, tile=tile)
    step, _ = planned_step(weights, source, shape)
    optimiser = AdamW(
        parameters.flat,
        step.gradient,
        decayed=parameters.decayed,
        weight_decay=WEIGHT_DECAY,
    )
    losses: list[float] = []
    first: dict[str, Array] = {}
    for _ in range(STEPS):
        loss, _ = step.run(np.arange(BATCH), source.labels)
        losses.append(loss / counted(source.labels))
        first = first or {key: g.copy() for key, g in step.gradients.items()}
        optimiser.step(RATE)
    return losses, first


def expected(name: str) -> tuple[list[float], dict[str, tuple[float, float]]]:
    """What PyTorch gave: (losses, sum and norm of each gradient of the first step)."""
    content = json.loads(FILE.read_text())[name]
    return content["losses"], content["first_gradient_sum_and_norm"]
