"""A training step and its evaluation, planned and laid into one arena.

Everything is built twice by the same code: once on buffers of their own, to read off the
lifetimes (nothing is written there, so no memory is touched), and once in the arena.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.allocate import allocate
from edge_runtime.flops import program_macs
from edge_runtime.predictor import Predictor
from edge_runtime.program import Array, Workspace
from edge_runtime.sources import FeatureSource
from edge_runtime.weights import FusedWeights
from trainer_lite.arena import Arena
from trainer_lite.lifetimes import lifetimes_of
from trainer_lite.plan import Layout, plan_layout
from trainer_lite.step import TrainingStep


@dataclass(frozen=True)
class StepShape:
    """What a step's buffers and operations follow from, beside the weights and the source.

    Args:
        batch: images of the largest batch. tile: images a pass, at most the batch.
        evaluation_scratch: bytes that reading a tile of any source to be evaluated takes.
    """

    batch: int
    tile: int
    smoothing: float = 0.0
    drop_path: float = 0.0
    evaluation_scratch: int = 0


@dataclass(frozen=True)
class StepPlan:
    """Layouts of a step and of its evaluation, which share one arena; what a batch multiplies.

    Operations are counted for what a batch does once, for a tile, and for a tile of evaluation.
    """

    layout: Layout
    evaluation: Layout
    macs: int
    once_operations: int
    tile_operations: int
    evaluation_operations: int

    @property
    def arena_bytes(self) -> int:
        return max(self.layout.nbytes, self.evaluation.nbytes)


class Trial(Workspace):
    """Buffers that are named and never written: mapped, they take no memory."""

    def _allocate(self, name: str, size: int, dtype: np.dtype[Any]) -> Array:
        return allocate(size * dtype.itemsize).view(dtype)


def plan_step(
    weights: FusedWeights,
    source: FeatureSource,
    shape: StepShape,
) -> StepPlan:
    """Plans both; touches no memory of the buffers."""
    trial = Trial(weights.fused.dtype)
    step = step_in(trial, weights, source, shape)
    layout = plan_layout(lifetimes_of(trial, [step.before, step.tile, step.after], loop=1))
    trial = Trial(weights.fused.dtype)
    predictor = predictor_in(trial, weights, shape)
    evaluation = plan_layout(lifetimes_of(trial, [predictor.tile], loop=0))
    tiles = shape.batch / shape.tile
    macs = program_macs(step.before) + program_macs(step.after)
    macs += round(tiles * program_macs(step.tile))
    return StepPlan(
        layout,
        evaluation,
        macs,
        once_operations=len(step.before.operations) + len(step.after.operations),
        tile_operations=len(step.tile.operations),
        evaluation_operations=len(predictor.tile.operations),
    )


def build_step(
    weights: FusedWeights,
    source: FeatureSource,
    shape: StepShape,
    plan: StepPlan,
) -> tuple[TrainingStep, Predictor]:
    """Builds both in one arena: they never run at the same time."""
    dtype = weights.fused.dtype
    memory = allocate(plan.arena_bytes)
    step = step_in(Arena(plan.layout, memory, dtype), weights, source, shape)
    return step, predictor_in(Arena(plan.evaluation, memory, dtype), weights, shape)


def planned_step(
    weights: FusedWeights,
    source: FeatureSource,
    shape: StepShape,
) -> tuple[TrainingStep, Predictor]:
    """Plans and builds in one go, where nobody asks about memory first."""
    plan = plan_step(weights, source, shape)
    return build_step(weights, source, shape, plan)


def step_in(
    workspace: Workspace,
    weights: FusedWeights,
    source: FeatureSource,
    shape: StepShape,
) -> TrainingStep:
    """A step whose buffers come from `workspace`."""
    return TrainingStep(
        weights,
        source,
        workspace,
        batch=shape.batch,
        tile=shape.tile,
        smoothing=shape.smoothing,
        drop_path=shape.drop_path,
    )


def predictor_in(workspace: Workspace, weights: FusedWeights, shape: StepShape) -> Predictor:
    """A predictor of the same tile whose buffers come from `workspace`."""
    return Predictor(weights, workspace, shape.tile, shape.evaluation_scratch)
