"""The floor: the two products of the stored width alone, whole batch, nothing else done."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from benchmarks.peers.problem import Problem

Array = np.ndarray[Any, Any]


class Floor:
    versions: ClassVar = {"numpy": np.__version__}

    def __init__(self, problem: Problem):
        features, _ = problem.decoded()
        rng = np.random.default_rng(0)
        self.z = features.reshape(-1, problem.config.embed_dim)
        rows = problem.config.product_rows
        self.right = rng.standard_normal((self.z.shape[1], rows)).astype(np.float32)
        self.e = rng.standard_normal((rows, len(self.z))).astype(np.float32)
        self.forward, self.backward = self.z @ self.right, self.e @ self.z

    def gradients(self) -> tuple[float, dict[str, Array]]:
        raise NotImplementedError("the two products alone have no gradient")

    def step(self) -> None:
        np.matmul(self.z, self.right, self.forward)
        np.matmul(self.e, self.z, self.backward)


def trainer(problem: Problem, threads: int) -> Floor:
    return Floor(problem)
