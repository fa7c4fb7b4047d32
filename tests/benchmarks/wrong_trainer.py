"""Ours with one gradient wrong by a thousandth: a peer that must not be timed."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.problem import Problem
from benchmarks.peers.trainers import edgetune


class _Wrong(edgetune.Trainer):
    def gradients(self) -> tuple[float, dict[str, Any]]:
        loss, gradients = super().gradients()
        name = "blocks.norm_bias.1"
        return loss, {**gradients, name: gradients[name] * 1.001}


def trainer(problem: Problem, threads: int) -> _Wrong:
    return _Wrong(problem)
