"""A step of several members and their evaluation, planned and laid into arenas as build does it."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.program import Array
from edge_runtime.sources import FeatureSource
from trainer_lite.build import EvaluatorIn, StepIn, StepPlan, StepShape, lay_out, plan_of
from trainer_lite.members import Members
from trainer_lite.members_predictor import MembersPredictor
from trainer_lite.members_step import MembersStep


def plan_members(members: Members, source: FeatureSource, shape: StepShape) -> StepPlan:
    """Plans both."""
    return plan_of(members.right.dtype, shape, *makers(members, source, shape))


def build_members(
    members: Members,
    source: FeatureSource,
    shape: StepShape,
    plan: StepPlan,
    memory: Sequence[Array],
) -> tuple[MembersStep, list[MembersPredictor]]:
    """Builds a step, and a predictor for each lane; `memory` may be that of a larger plan."""
    return lay_out(members.right.dtype, plan, memory, *makers(members, source, shape))


def makers(
    members: Members, source: FeatureSource, shape: StepShape
) -> tuple[StepIn[MembersStep], EvaluatorIn[MembersPredictor]]:
    """What makes a step, and what makes a predictor, in any workspace."""
    return (
        lambda space, others: MembersStep(
            members,
            source,
            space,
            batch=shape.batch,
            tile=shape.tile,
            smoothing=shape.smoothing,
            drop_path=shape.drop_path,
            others=others,
        ),
        lambda space: MembersPredictor(members, space, shape.tile, shape.evaluation_scratch),
    )


def holds(memory: Sequence[Array], plan: StepPlan) -> bool:
    """Whether a plan's arenas find room there."""
    needed = [plan.first_bytes] + [plan.lane_bytes] * (plan.lanes - 1)
    return len(memory) == plan.lanes and all(m.size >= n for m, n in zip(memory, needed))
