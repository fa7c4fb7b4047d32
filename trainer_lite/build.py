"""A training step and its evaluation, planned and laid into one arena.

Everything is built twice by the same code: once on buffers of their own, to read off the
lifetimes (nothing is written there, so no memory is touched), and once in the arena.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.allocate import allocate
from edge_runtime.flops import program_macs
from edge_runtime.forward import default_tile
from edge_runtime.predictor import Predictor
from edge_runtime.program import Array, Workspace
from edge_runtime.sources import FeatureSource
from edge_runtime.weights import FusedWeights
from trainer_lite.arena import Arena
from trainer_lite.lifetimes import lifetimes_of
from trainer_lite.plan import Layout, plan_layout
from trainer_lite.step import TrainingStep

LANE_TILES = 4  # by which a lane's tiles are larger than those of one lane alone


@dataclass(frozen=True)
class StepShape:
    """What a step's buffers and operations follow from, beside the weights and the source.

    Args:
        batch: images of the largest batch. tile: images a pass, at most the batch.
        evaluation_scratch: bytes that reading a tile of any source to be evaluated takes.
        lanes: tiles that run side by side, each lane in a thread.
        head_only: whether the gradient is that of the head alone.
        mask_size: pixels along a side of the masks that are evaluated on, where there are any.
    """

    batch: int
    tile: int
    smoothing: float = 0.0
    drop_path: float = 0.0
    evaluation_scratch: int = 0
    lanes: int = 1
    head_only: bool = False
    mask_size: int = 0


@dataclass(frozen=True)
class StepPlan:
    """Layouts of a step and of its evaluation, which share one arena; what a batch multiplies.

    `layout` is of the first lane and all that is done once a batch, `lane` of each further lane.
    Operations are counted for what a batch does once, for a tile, and for a tile of evaluation.
    """

    layout: Layout
    lane: Layout
    evaluation: Layout
    lanes: int
    macs: int
    once_operations: int
    tile_operations: int
    evaluation_operations: int

    @property
    def trial_bytes(self) -> int:
        """Bytes that planning mapped, each buffer apart."""
        layouts = (self.layout, self.lane, self.evaluation)
        return sum(buffer.nbytes for layout in layouts for buffer in layout.lifetimes)

    @property
    def first_bytes(self) -> int:
        """Bytes of the first lane."""
        return max(self.layout.nbytes, self.evaluation.nbytes)

    @property
    def lane_bytes(self) -> int:
        """Bytes of each further lane."""
        return max(self.lane.nbytes, self.evaluation.nbytes)

    @property
    def arena_bytes(self) -> int:
        """Bytes of all lanes."""
        return self.first_bytes + (self.lanes - 1) * self.lane_bytes


def fastest_tile(tokens: int, batch: int, lanes: int = 1) -> int:
    """Images a pass. One lane: as fits in the caches. Several: more, as each operation of a lane
    has to wait for Python's lock, but no lane without a tile."""
    tile = default_tile(tokens) * (1 if lanes == 1 else LANE_TILES)
    return min(tile, -(-batch // lanes))


class Trial(Workspace):
    """Buffers that are named and never written: mapped, they take no memory."""

    def _allocate(self, name: str, size: int, dtype: np.dtype[Any]) -> Array:
        return allocate(size * dtype.itemsize).view(dtype)


def plan_step(weights: FusedWeights, source: FeatureSource, shape: StepShape) -> StepPlan:
    """Plans both; touches no memory of the buffers."""
    dtype = weights.fused.dtype
    first, further, trial = Trial(dtype), Trial(dtype), Trial(dtype)
    others = [further][: shape.lanes - 1]  # one stands for all
    step = step_in(first, weights, source, shape, others)
    layout = plan_layout(lifetimes_of(first, step.programs(), loop=2))
    lane = Layout((), {}, 0)
    if others:
        lane = plan_layout(lifetimes_of(further, step.programs(1), loop=2))
    predictor = predictor_in(trial, weights, shape)
    evaluation = plan_layout(lifetimes_of(trial, [predictor.tile], loop=0))
    before, _, tile, after = step.programs()
    tiles = shape.batch / shape.tile
    return StepPlan(
        layout,
        lane,
        evaluation,
        shape.lanes,
        program_macs(before) + program_macs(after) + round(tiles * program_macs(tile)),
        once_operations=len(before.operations) + len(after.operations),
        tile_operations=len(tile.operations),
        evaluation_operations=len(predictor.tile.operations),
    )


def build_step(
    weights: FusedWeights, source: FeatureSource, shape: StepShape, plan: StepPlan
) -> tuple[TrainingStep, list[Predictor]]:
    """Builds a step, and for each of its lanes a predictor in the same arena: they never run at
    the same time."""
    dtype = weights.fused.dtype
    memory = [allocate(plan.first_bytes)]
    memory += [allocate(plan.lane_bytes) for _ in range(1, plan.lanes)]
    first = Arena(plan.layout, memory[0], dtype)
    others = [Arena(plan.lane, part, dtype) for part in memory[1:]]
    step = step_in(first, weights, source, shape, others)
    return step, [
        predictor_in(Arena(plan.evaluation, part, dtype), weights, shape) for part in memory
    ]


def planned_step(
    weights: FusedWeights, source: FeatureSource, shape: StepShape
) -> tuple[TrainingStep, list[Predictor]]:
    """Plans and builds in one go, where nobody asks about memory first."""
    return build_step(weights, source, shape, plan_step(weights, source, shape))


def step_in(
    workspace: Workspace,
    weights: FusedWeights,
    source: FeatureSource,
    shape: StepShape,
    others: Sequence[Workspace] = (),
) -> TrainingStep:
    """A step whose buffers come from `workspace`, and of further lanes from `others`."""
    return TrainingStep(
        weights,
        source,
        workspace,
        batch=shape.batch,
        tile=shape.tile,
        smoothing=shape.smoothing,
        drop_path=shape.drop_path,
        head_only=shape.head_only,
        others=others,
    )


def predictor_in(workspace: Workspace, weights: FusedWeights, shape: StepShape) -> Predictor:
    """A predictor of the same tile whose buffers come from `workspace`."""
    return Predictor(
        weights, workspace, shape.tile, shape.evaluation_scratch, mask_size=shape.mask_size
    )
