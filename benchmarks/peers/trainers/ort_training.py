"""ONNX Runtime training, on the CPU.

Its AdamW takes one weight decay for all parameters, vectors included; importing its Python package
imports torch, so torch counts in its memory and its install size.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
from onnxruntime.training.api import CheckpointState, Module, Optimizer

from benchmarks.peers.problem import LEARNING_RATE, Problem, by_block, dotless

Array = np.ndarray[Any, Any]


class Trainer:
    versions: ClassVar = {"onnxruntime-training": onnxruntime.__version__}

    def __init__(self, problem: Problem, threads: int, folder: Path):
        self.batch = problem.decoded()
        self.names = {name: dotless(name) for name in by_block(problem.start)}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        self.state = CheckpointState.load_checkpoint(folder / "checkpoint")
        self.module = Module(folder / "training_model.onnx", self.state, session_options=options)
        self.optimiser = Optimizer(folder / "optimizer_model.onnx", self.module)
        self.optimiser.set_learning_rate(LEARNING_RATE)

    def gradients(self) -> tuple[float, dict[str, Array]]:
        self.module.lazy_reset_grad()
        loss = self.module(*self.batch)
        found = {name: self.state.parameters[key].grad for name, key in self.names.items()}
        return float(loss), found

    def step(self) -> None:
        self.module.lazy_reset_grad()
        self.module(*self.batch)
        self.optimiser.step()


def trainer(problem: Problem, threads: int) -> Trainer:
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(problem.features.folder.path.parent), folder]
        command = [sys.executable, "-m", "benchmarks.peers.trainers.ort_artifacts", *arguments]
        made = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        if made.returncode:
            raise RuntimeError("its training graph could not be made; the peer's log says why")
        return Trainer(problem, threads, Path(folder))
