"""A training step and its evaluation, planned and laid into one arena.

Everything is built twice by the same code: once on buffers of their own, to read off the
lifetimes (nothing is written there, so no memory is touched), and once in the arena.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.predictor import Predictor
from edge_runtime.program import Array, Workspace
from edge_runtime.sources import FeatureSource
from edge_runtime.weights import FusedWeights
from trainer_lite.arena import Arena, allocate
from trainer_lite.lifetimes import lifetimes_of
from trainer_lite.plan import Layout, plan_layout
from trainer_lite.step import TrainingStep


@dataclass(frozen=True)
class Planned:
    """A step and a predictor that share one arena: they never run at the same time."""

    step: TrainingStep
    predictor: Predictor
    layout: Layout
    evaluation: Layout

    @property
    def arena_bytes(self) -> int:
        return max(self.layout.nbytes, self.evaluation.nbytes)


def build_step(
    weights: FusedWeights,
    gradients: Mapping[str, Array],
    source: FeatureSource,
    *,
    batch: int,
    tile: int,
    scratch_bytes: int = 0,
    **options: Any,
) -> Planned:
    """Plans and builds a step of TrainingStep's arguments, and a predictor of the same tile.

    Args:
        scratch_bytes: what reading a tile of any source to be evaluated takes.
    """
    tile = min(tile, batch)

    def step_in(workspace: Workspace) -> TrainingStep:
        return TrainingStep(
            weights, gradients, source, workspace, batch=batch, tile=tile, **options
        )

    def predictor_in(workspace: Workspace) -> Predictor:
        return Predictor(weights, workspace, tile, scratch_bytes)

    dtype = weights.fused.dtype
    trial = Workspace(dtype)
    step = step_in(trial)
    layout = plan_layout(lifetimes_of(trial, [step.before, step.tile, step.after], loop=1))
    trial = Workspace(dtype)
    evaluation = plan_layout(lifetimes_of(trial, [predictor_in(trial).tile], loop=0))
    memory = allocate(max(layout.nbytes, evaluation.nbytes))
    return Planned(
        step_in(Arena(layout, memory, dtype)),
        predictor_in(Arena(evaluation, memory, dtype)),
        layout,
        evaluation,
    )
