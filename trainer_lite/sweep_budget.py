"""How many bytes a sweep will take, told before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edge_runtime.config import AdaptorConfig
from edge_runtime.program import Workspace
from edge_runtime.sources import FeatureSource
from trainer_lite.budget import VECTORS, Planner, blas_bytes
from trainer_lite.build import StepPlan, StepShape, fastest_tile
from trainer_lite.config import TrainConfig
from trainer_lite.members import Members
from trainer_lite.members_build import plan_members
from trainer_lite.optim import CHUNK
from trainer_lite.parameters import ParameterSet

TILES = 2  # by which a tile of several members is larger than one's: each operation costs a call


class SweepPlanner(Planner):
    """Plans a sweep at any tile, at its start, when no member was dropped.

    Args:
        group: the adaptors of one group, the largest rank first; all groups are alike.
        groups: how many there are. They run one at a time, but all keep their states.
    """

    def __init__(
        self,
        group: Sequence[AdaptorConfig],
        groups: int,
        training: TrainConfig,
        source: FeatureSource,
        evaluated: Sequence[FeatureSource],
        threads: int,
    ):
        super().__init__(group[0], training, source, evaluated, threads=threads)
        self.group, self.groups = list(group), groups

    @property
    def advice(self) -> str:
        count = len(self.group) * self.groups
        if count == 1:
            return super().advice
        return f"fewer values on a grid of {count} members, {super().advice}"

    @property
    def largest_tile(self) -> int:
        fastest = fastest_tile(self.adaptor.tokens, self.training.batch_size, self.threads)
        if len(self.group) == 1 or self.threads > 1:
            return fastest
        return min(TILES * fastest, self.training.batch_size)

    def _planned(self, shape: StepShape) -> tuple[StepPlan, int, int]:
        parameters = [ParameterSet(config) for config in self.group]
        workspace = Workspace()
        members = Members(self.group, [p.values for p in parameters], workspace)
        step = plan_members(members, self.source, shape)
        sizes = [p.flat.nbytes for p in parameters]
        work = len(sizes) * CHUNK * parameters[0].flat.itemsize  # each optimiser's
        state = self.groups * (VECTORS * sum(sizes) + work) + sizes[0]  # and the best of all
        return step, state, workspace.nbytes

    def _blas(self, tile: int, lanes: int) -> int:
        """Of the widest product; those of each member are narrower."""
        rows = sum(config.product_rows for config in self.group)
        return blas_bytes(self.adaptor, tile, lanes, rows)


def by_rank(configs: Sequence[AdaptorConfig]) -> list[int]:
    """Indices of adaptors, the largest rank first and else in their order."""
    return np.argsort([-config.rank for config in configs], kind="stable").tolist()


def with_rank(adaptor: AdaptorConfig, config: TrainConfig) -> AdaptorConfig:
    """An adaptor of another run of the same sweep."""
    return adaptor if config.kind == "linear" else replace(adaptor, rank=config.rank)
