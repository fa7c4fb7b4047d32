"""A step of several members and their evaluation, planned and laid into arenas; compare build."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.allocate import allocate
from edge_runtime.flops import program_macs
from edge_runtime.program import Array, Workspace
from edge_runtime.sources import FeatureSource
from trainer_lite.arena import Arena
from trainer_lite.build import StepPlan, StepShape, Trial
from trainer_lite.lifetimes import lifetimes_of
from trainer_lite.members import Members
from trainer_lite.members_predictor import MembersPredictor
from trainer_lite.members_step import MembersStep
from trainer_lite.plan import Layout, plan_layout


def plan_members(members: Members, source: FeatureSource, shape: StepShape) -> StepPlan:
    """Plans both; touches no memory of the buffers."""
    dtype = members.right.dtype
    first, further, trial = Trial(dtype), Trial(dtype), Trial(dtype)
    others = [further][: shape.lanes - 1]  # one stands for all
    step = step_in(first, members, source, shape, others)
    layout = plan_layout(lifetimes_of(first, step.programs(), loop=2))
    lane = Layout((), {}, 0)
    if others:
        lane = plan_layout(lifetimes_of(further, step.programs(1), loop=2))
    predictor = predictor_in(trial, members, shape)
    evaluation = plan_layout(lifetimes_of(trial, [predictor.tile], loop=0))
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
        evaluation_operations=len(predictor.tile.operations),
    )


def build_members(
    members: Members,
    source: FeatureSource,
    shape: StepShape,
    plan: StepPlan,
    memory: Sequence[Array],
) -> tuple[MembersStep, list[MembersPredictor]]:
    """Builds a step, and for each of its lanes a predictor in the same arena.

    Args:
        memory: of each lane, as `lane_memory` gave it for this plan or a larger one.
    """
    dtype = members.right.dtype
    first = Arena(plan.layout, memory[0], dtype)
    others = [Arena(plan.lane, part, dtype) for part in memory[1:]]
    step = step_in(first, members, source, shape, others)
    return step, [
        predictor_in(Arena(plan.evaluation, part, dtype), members, shape) for part in memory
    ]


def lane_memory(plan: StepPlan) -> list[Array]:
    """What a plan's arenas lie in."""
    return [allocate(plan.first_bytes)] + [allocate(plan.lane_bytes) for _ in range(1, plan.lanes)]


def holds(memory: Sequence[Array], plan: StepPlan) -> bool:
    """Whether a plan's arenas find room there."""
    needed = [plan.first_bytes] + [plan.lane_bytes] * (plan.lanes - 1)
    return len(memory) == plan.lanes and all(m.size >= n for m, n in zip(memory, needed))


def step_in(
    workspace: Workspace,
    members: Members,
    source: FeatureSource,
    shape: StepShape,
    others: Sequence[Workspace] = (),
) -> MembersStep:
    """A step whose buffers come from `workspace`, and of further lanes from `others`."""
    return MembersStep(
        members,
        source,
        workspace,
        batch=shape.batch,
        tile=shape.tile,
        smoothing=shape.smoothing,
        drop_path=shape.drop_path,
        others=others,
    )


def predictor_in(workspace: Workspace, members: Members, shape: StepShape) -> MembersPredictor:
    """A predictor of the same tile whose buffers come from `workspace`."""
    return MembersPredictor(members, workspace, shape.tile, shape.evaluation_scratch)
