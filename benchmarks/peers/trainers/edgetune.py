"""Ours: numpy, reading the stored float16 features from disk in tiles, as on a device."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from benchmarks.peers.problem import (
    BETAS,
    EPS,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Problem,
    by_block,
)
from edge_runtime.forward import default_tile
from edge_runtime.program import Workspace
from edge_runtime.weights import FusedWeights
from trainer_lite.build import StepShape, planned_step
from trainer_lite.optim import AdamW
from trainer_lite.parameters import ParameterSet

Array = np.ndarray[Any, Any]


class Trainer:
    versions: ClassVar = {"numpy": np.__version__}

    def __init__(self, problem: Problem):
        self.parameters = ParameterSet(problem.config)
        for name, values in self.parameters.values.items():
            values[...] = problem.start[name]
        weights = FusedWeights(problem.config, self.parameters.values, Workspace())
        source = problem.features
        self.labels = source.labels
        self.rows = np.arange(len(self.labels))
        tile = min(problem.tile or default_tile(source.tokens), len(self.rows))
        shape = StepShape(batch=len(self.rows), tile=tile)
        self.batch, _ = planned_step(weights, source, shape)
        self.optimiser = AdamW(
            self.parameters.flat,
            self.batch.gradient,
            decayed=self.parameters.decayed,
            weight_decay=WEIGHT_DECAY,
            betas=BETAS,
            eps=EPS,
        )

    def gradients(self) -> tuple[float, dict[str, Array]]:
        loss, _ = self.batch.run(self.rows, self.labels)
        return loss / len(self.rows), by_block(self.batch.gradients)

    def step(self) -> None:
        self.batch.run(self.rows, self.labels)
        self.optimiser.step(LEARNING_RATE)


def trainer(problem: Problem, threads: int) -> Trainer:
    return Trainer(problem)
