"""LiteRT: the runtime alone, training a graph that litert_graph.py made beforehand.

Parameters and moments are variables that the runtime keeps. The gradients pass through Python
between its two signatures; features are copied in at every step, as a device would its next batch.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.peers.problem import Problem, by_block, dotless

Array = np.ndarray[Any, Any]


class Trainer:
    versions: ClassVar = {"ai-edge-litert": version("ai-edge-litert")}

    def __init__(self, problem: Problem, threads: int):
        features, labels = problem.decoded()
        self.batch = {"z": features, "labels": labels.astype(np.int32)}
        self.names = {name: dotless(name) for name in by_block(problem.start)}
        interpreter = Interpreter(model_path=str(problem.graph), num_threads=threads)
        self.backward = interpreter.get_signature_runner("backward")
        self.update = interpreter.get_signature_runner("update")
        self.count = 0

    def gradients(self) -> tuple[float, dict[str, Array]]:
        found = self.backward(**self.batch)
        return float(found["loss"]), {name: found[key] for name, key in self.names.items()}

    def step(self) -> None:
        self.count += 1
        gradients = self.backward(**self.batch)
        del gradients["loss"]
        self.update(count=np.float32(self.count), **gradients)


def trainer(problem: Problem, threads: int) -> Trainer:
    return Trainer(problem, threads)
