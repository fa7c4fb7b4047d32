"""PyTorch: the adaptor as anyone would write it, AdamW with PyTorch's defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.problem import (
    BETAS,
    EPS,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Problem,
    by_block,
    gathered,
)
from tests.torch_reference import adaptor_logits, to_torch

Array = np.ndarray[Any, Any]
Loss = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]


class TorchTrainer:
    """Trains with any function of that signature, the eager loss or a compiled one."""

    versions: ClassVar = {"torch": torch.__version__}

    def __init__(self, problem: Problem, wrap: Callable[[Loss], Loss]):
        features, labels = problem.decoded()
        self.features, self.labels = torch.from_numpy(features), torch.from_numpy(labels)
        self.leaves = to_torch(by_block(problem.start))

        def loss(leaves: dict[str, Tensor], features: Tensor, labels: Tensor) -> Tensor:
            logits = adaptor_logits(problem.config, gathered(leaves), features)
            return torch.nn.functional.cross_entropy(logits, labels)

        self.loss = wrap(loss)
        matrices = [leaf for leaf in self.leaves.values() if leaf.dim() == 2]
        vectors = [leaf for leaf in self.leaves.values() if leaf.dim() == 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": WEIGHT_DECAY},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=LEARNING_RATE,
            betas=BETAS,
            eps=EPS,
        )

    def backward(self) -> Tensor:
        """Fills the gradients; returns the loss."""
        self.optimiser.zero_grad()
        loss = self.loss(self.leaves, self.features, self.labels)
        loss.backward()
        return loss

    def gradients(self) -> tuple[float, dict[str, Array]]:
        loss = self.backward()
        return loss.item(), {n: leaf.grad.numpy() for n, leaf in self.leaves.items()}

    def step(self) -> None:
        self.backward()
        self.optimiser.step()


def trainer(problem: Problem, threads: int) -> TorchTrainer:
    torch.set_num_threads(threads)
    return TorchTrainer(problem, lambda loss: loss)
