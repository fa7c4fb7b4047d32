"""PyTorch with torch.compile: forward and backward compiled, which takes a C++ compiler."""

from __future__ import annotations

import torch

from benchmarks.peers.problem import Problem
from benchmarks.peers.trainers.torch_eager import TorchTrainer


def trainer(problem: Problem, threads: int) -> TorchTrainer:
    torch.set_num_threads(threads)
    return TorchTrainer(problem, torch.compile)
