"""Small random problems for tests: configurations, parameters, features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from edge_runtime import ops
from edge_runtime.config import IGNORED, AdaptorConfig
from edge_runtime.program import Workspace
from edge_runtime.weights import FusedWeights
from trainer_lite.build import StepShape, planned_step
from trainer_lite.step import TrainingStep

Array = np.ndarray[Any, Any]


def config_of(**changes: Any) -> AdaptorConfig:
    """A small configuration with some entries changed."""
    entries: dict[str, Any] = {
        "kind": "attention",
        "tokens": 10,
        "prefix_tokens": 1,
        "embed_dim": 24,
        "classes": 5,
        "rank": 4,
        "blocks": 2,
        "heads": 1,
        "pool": "mean",
        "norm_eps": 1e-6,
        "input_rms": 3.7,
    }
    entries.update(changes)
    if entries["kind"] == "linear":
        entries.update(rank=0, blocks=0, heads=1)
    return AdaptorConfig(**entries)


def random_parameters(config: AdaptorConfig, dtype: Any, seed: int = 0) -> dict[str, Array]:
    """Parameters with nothing at zero, so that every term of every gradient counts."""
    rng = np.random.default_rng(seed)
    parameters = {}
    for name, shape in config.parameter_shapes().items():
        values = rng.standard_normal(shape) * (0.5 if "norm" in name else 0.3)
        parameters[name] = (values + ("norm_weight" in name)).astype(dtype)
    return parameters


@dataclass
class Problem:
    """Features (rows, tokens, dim) with labels and drop-path factors; a FeatureSource."""

    config: AdaptorConfig
    features: Array
    labels: Array
    drop: Array

    @property
    def tokens(self) -> int:
        return self.config.tokens

    @property
    def embed_dim(self) -> int:
        return self.config.embed_dim

    def scratch_bytes(self, images: int) -> int:
        return 0

    def read(self, rows: Array, z: Array, norms: Array, scratch: Array) -> None:
        z[...] = self.features[rows]
        centred = self.features[rows] - self.features[rows].mean(axis=2, keepdims=True)
        norms[...] = (centred**2).sum(axis=2)


def step_of(
    parameters: dict[str, Array],
    problem: Problem,
    *,
    planned: bool = True,
    **options: Any,
) -> TrainingStep:
    """A step on `problem`, in an arena or (not `planned`) with every buffer apart."""
    dtype = parameters["head.weight"].dtype
    weights = FusedWeights(problem.config, parameters, Workspace(dtype))
    if planned:
        shape = StepShape(**options)
        return planned_step(weights, problem, shape)[0]
    return TrainingStep(weights, problem, Workspace(dtype), **options)


def problem_of(config: AdaptorConfig, rows: int, dtype: Any, seed: int = 0) -> Problem:
    """Features as a real backbone's: large entries, means off zero, one outlying channel."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((rows, config.tokens, config.embed_dim)) * 4 + 1.5
    features[:, :, 0] += 20
    labels = rng.integers(0, config.classes, rows)
    if config.dense:
        labels = rng.integers(0, config.classes, (rows, config.patch_tokens)).astype(np.uint8)
        labels[rng.random(labels.shape) > 0.7] = IGNORED
        labels[0] = IGNORED
    kept = rng.random((max(config.blocks, 1), rows)) > 0.3
    return Problem(config, features.astype(dtype), labels, (kept / 0.7).astype(dtype))


def use_power(power: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has softmax computed with np.exp or np.exp2, whichever is faster here."""
    monkeypatch.setattr(ops, "POWER", power)
    monkeypatch.setattr(ops, "LOG_BASE", math.log(2) if power is np.exp2 else 1.0)


def poison(workspace: Workspace) -> None:
    """Fills every floating-point buffer with NaN: a stale value that is read then shows."""
    for buffer in workspace.buffers.values():
        if buffer.dtype.kind == "f":
            buffer.fill(np.nan)
