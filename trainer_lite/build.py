"""A training step and its evaluation, planned and laid into one arena.

Everything is built twice by the same code: once on buffers of their own, to read off the
lifetimes (nothing is written there, so no memory is touched), and once in the arena.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from edge_runtime.allocate import allocate
from edge_runtime.flops import program_macs
from edge_runtime.forward import default_tile
from edge_runtime.predictor import Predictor
from edge_runtime.program import Array, Program, Workspace
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


class Runs(Protocol):
    """A training step of one adaptor, or of several."""

    def programs(self, lane: int = 0) -> Sequence[Program]:
        """In the order in which they run: before, a lane's clear and tile, all that comes after."""


class Evaluates(Protocol):
    """What evaluates in a lane."""

    tile: Program


Step = TypeVar("Step", bound=Runs)
Evaluator = TypeVar("Evaluator", bound=Evaluates)
StepIn = Callable[[Workspace, Sequence[Workspace]], Step]
EvaluatorIn = Callable[[Workspace], Evaluator]


def plan_of(
    dtype: Any, shape: StepShape, make_step: StepIn[Step], make_evaluator: EvaluatorIn[Evaluator]
) -> StepPlan:
    """Plans what these make in workspaces; touches no memory of the buffers."""
    first, further, trial = Trial(dtype), Trial(dtype), Trial(dtype)
    others = [further][: shape.lanes - 1]  # one stands for all
    step = make_step(first, others)
    layout = plan_layout(lifetimes_of(first, step.programs(), loop=2))
    lane = Layout((), {}, 0)
    if others:
        lane = plan_layout(lifetimes_of(further, step.programs(1), loop=2))
    evaluator = make_evaluator(trial)
    evaluation = plan_layout(lifetimes_of(trial, [evaluator.tile], loop=0))
    before, clear, tile, *after = step.programs()
    tiles = shape.batch / shape.tile
    once = [before, clear, *after]
    return StepPlan(
        layout,
        lane,
        evaluation,
        shape.lanes,
        sum(map(program_macs, once)) + round(tiles * program_macs(tile)),
        once_operations=sum(len(program.operations) for program in once),
        tile_operations=len(tile.operations),
        evaluation_operations=len(evaluator.tile.operations),
    )


def lane_memory(plan: StepPlan) -> list[Array]:
    """What a plan's arenas lie in."""
    return [allocate(plan.first_bytes)] + [allocate(plan.lane_bytes) for _ in range(1, plan.lanes)]


def lay_out(
    dtype: Any,
    plan: StepPlan,
    memory: Sequence[Array],
    make_step: StepIn[Step],
    make_evaluator: EvaluatorIn[Evaluator],
) -> tuple[Step, list[Evaluator]]:
    """Builds a step, and for each of its lanes an evaluator in the same arena: they never run at
    the same time.

    Args:
        memory: of each lane, as `lane_memory` gave it for this plan or a larger one.
    """
    first = Arena(plan.layout, memory[0], dtype)
    others = [Arena(plan.lane, part, dtype) for part in memory[1:]]
    step = make_step(first, others)
    return step, [make_evaluator(Arena(plan.evaluation, part, dtype)) for part in memory]


def plan_step(weights: FusedWeights, source: FeatureSource, shape: StepShape) -> StepPlan:
    """Plans the step of one adaptor and its evaluation."""
    return plan_of(weights.fused.dtype, shape, *makers(weights, source, shape))


def build_step(
    weights: FusedWeights, source: FeatureSource, shape: StepShape, plan: StepPlan
) -> tuple[TrainingStep, list[Predictor]]:
    """Builds it, and for each of its lanes a predictor."""
    made = makers(weights, source, shape)
    return lay_out(weights.fused.dtype, plan, lane_memory(plan), *made)


def makers(
    weights: FusedWeights, source: FeatureSource, shape: StepShape
) -> tuple[StepIn[TrainingStep], EvaluatorIn[Predictor]]:
    """What makes a step, and what makes a predictor, in any workspace."""
    return (
        lambda space, others: step_in(space, weights, source, shape, others),
        lambda space: predictor_in(space, weights, shape),
    )


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
