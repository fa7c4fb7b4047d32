"""How many bytes a training run will take, told before it starts, and the tile that fits a budget.

A run's peak RSS is what the process holds before it (interpreter, numpy, labels), which is
measured; what BLAS takes for its own buffers, which is measured on products of the run's shapes;
and what the run will write to, which is counted.
"""

from __future__ import annotations

import gc
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edge_runtime.allocate import allocate
from edge_runtime.code_pages import release_code_pages
from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import BudgetError, MismatchError
from edge_runtime.flops import FLOPS_PER_MAC
from edge_runtime.memory import (
    address_space_bytes,
    data_segment_bytes,
    limits,
    peak_rss_bytes,
    rss_bytes,
)
from edge_runtime.products import pieces
from edge_runtime.program import Workspace
from edge_runtime.sources import FeatureSource
from edge_runtime.weights import FusedWeights
from trainer_lite.build import StepPlan, StepShape, fastest_tile, plan_step
from trainer_lite.config import TrainConfig
from trainer_lite.parameters import ParameterSet, trained_part
from trainer_lite.rehearsal import rehearse
from trainer_lite.threads import side_by_side

# Python's own objects, fitted to what benchmarks/predictions.py measures: those of a run, and
# those of each operation of its programs (a tuple, its views of buffers).
RUN_OBJECTS = 512 << 10
OPERATION_OBJECTS = 768
# Of program files, that a run reads and its rehearsal did not: less where masks are rehearsed, too,
# and nothing where lanes are, as a run then reads less than its rehearsal.
CODE_PAGES = 768 << 10
BLAS_ROWS = 512  # BLAS packs blocks of some hundred rows; more takes no more
SPACE_MARGIN = 12 << 20  # objects, and what BLAS and malloc reserve in passing
LANE_SPACE = 104 << 20  # that BLAS and malloc reserve for another lane, and its stack
SPACE_JITTER = 2 << 20  # by which what processes map differs, and `train` from `plan`
JITTER = 192 << 10  # by which one process's start differs from the next one's
LOADING_JITTER = 640 << 10  # by which the peak of its loading does
PIXEL_WORK = 64 << 10  # what reading, checking and counting of masks takes in passing
COUNTS = 3  # as large as the confusion of pixels: it, that of a strip, and their sum
VECTORS = 3  # as large as the parameters: they, and AdamW's two moments


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one run, part by part, at a tile of so many images."""

    tile_images: int
    step: StepPlan
    loading_bytes: int
    loading_room: int
    baseline_bytes: int
    blas_bytes: int
    parameter_bytes: int
    weights_bytes: int
    operations: int
    held_space_bytes: int
    held_data_bytes: int
    pixel_bytes: int

    @property
    def lanes(self) -> int:
        return self.step.lanes

    @property
    def choice(self) -> dict[str, int]:
        """What was chosen, and a CRC-32 of where each buffer lies: another run that agrees in
        these computes in the same order in the same places."""
        layouts = (self.step.layout, self.step.lane, self.step.evaluation)
        offsets = repr([sorted(layout.offsets.items()) for layout in layouts])
        crc = zlib.crc32(offsets.encode())
        return {"tile": self.tile_images, "lanes": self.lanes, "layout": crc}

    @property
    def arena_bytes(self) -> int:
        return self.step.arena_bytes

    @property
    def object_bytes(self) -> int:
        """Python's own objects and code; of lanes that evaluate pixels, counts and weights."""
        code = CODE_PAGES // 2 if self.pixel_bytes else CODE_PAGES
        if self.lanes > 1:
            code = 0
        return RUN_OBJECTS + code + OPERATION_OBJECTS * self.operations + self.pixel_bytes

    @property
    def run_bytes(self) -> int:
        """The most that training holds, loading left out."""
        held = self.baseline_bytes + self.blas_bytes + self.object_bytes
        return held + self.parameter_bytes + self.weights_bytes + self.arena_bytes

    @property
    def predicted_peak_rss_bytes(self) -> int:
        """What VmHWM will read at the end, or a little more: no less than it reads already."""
        return max(self.run_bytes, self.loading_bytes + self.loading_room)

    @property
    def budget_bytes(self) -> int:
        """A budget that another process with the same options will accept and keep."""
        return max(self.run_bytes + JITTER, self.loading_bytes + LOADING_JITTER)

    @property
    def mapped_bytes(self) -> int:
        """What the run maps beyond what the process has, or its planning, and room to breathe."""
        run = self.parameter_bytes + self.arena_bytes
        margin = SPACE_MARGIN + (self.lanes - 1) * LANE_SPACE
        return self.weights_bytes + max(run, self.step.trial_bytes) + margin

    @property
    def address_space_bytes(self) -> int:
        """Address space that a run needs: a limit (ulimit -v) that it gets by with."""
        return self.held_space_bytes + self.mapped_bytes + SPACE_JITTER

    @property
    def data_segment_bytes(self) -> int:
        """Data segment that a run needs: a limit (ulimit -d) that it gets by with."""
        return self.held_data_bytes + self.mapped_bytes + SPACE_JITTER

    @property
    def flops_per_step(self) -> int:
        return FLOPS_PER_MAC * self.step.macs


class Planner:
    """Plans one run at any tile; what the process holds is measured as it is made.

    Args:
        source: what is trained on. evaluated: what is evaluated on in between or at the end.
        keep_best: whether a copy of the best parameters is held in memory.
        threads: the most lanes that a plan may have.
        elsewhere: whether the run will be another process's, whose loading may take more.
    """

    def __init__(
        self,
        adaptor: AdaptorConfig,
        training: TrainConfig,
        source: FeatureSource,
        evaluated: Sequence[FeatureSource] = (),
        *,
        keep_best: bool = False,
        threads: int = 1,
        elsewhere: bool = False,
    ):
        self.adaptor, self.training = adaptor, training
        self.source, self.evaluated = source, evaluated
        self.vectors, self.threads = VECTORS + keep_best, threads
        release_code_pages()
        rehearse(adaptor, threads)  # maps again what a run reads
        gc.collect()  # programs refer to themselves
        self.baseline_bytes, self.loading_bytes = rss_bytes(), peak_rss_bytes()
        self.loading_room = LOADING_JITTER if elsewhere else 0
        self.held_space_bytes, self.held_data_bytes = address_space_bytes(), data_segment_bytes()
        self._blas_bytes = 0

    @property
    def advice(self) -> str:
        """What needs less, for people."""
        needs_less = (
            "fewer --blocks, a lower --rank, --pool mean or features of fewer tokens (extract "
            "--codec int8-pool2) need less"
        )
        if sys.flags.optimize >= 2:
            return needs_less
        return f"{needs_less}, and so does PYTHONOPTIMIZE=2 in the environment (no docstrings)"

    @property
    def largest_tile(self) -> int:
        """The fastest tile; no more helps."""
        return fastest_tile(self.adaptor.tokens, self.training.batch_size, self.threads)

    @property
    def mask_size(self) -> int:
        """Pixels along a side of the masks that are evaluated on; 0 where there are none."""
        return max((getattr(s, "mask_size", 0) for s in self.evaluated), default=0)

    @property
    def pixel_bytes(self) -> int:
        """What a lane that reads masks holds beside its buffers: counts, weights of the
        interpolation."""
        adaptor = self.adaptor
        if not adaptor.dense:
            return 0
        counts = COUNTS * 8 * adaptor.head_rows**2
        return PIXEL_WORK + counts + 4 * self.mask_size * adaptor.grid_side

    def shape(self, tile: int, lanes: int = 1) -> StepShape:
        """The step's shape at tiles of so many images in so many lanes."""
        training = self.training
        return StepShape(
            batch=training.batch_size,
            tile=min(tile, training.batch_size),
            smoothing=training.label_smoothing,
            drop_path=training.drop_path if self.adaptor.blocks else 0.0,
            evaluation_scratch=max((s.scratch_bytes(tile) for s in self.evaluated), default=0),
            lanes=lanes,
            head_only=training.head_only,
            mask_size=self.mask_size,
        )

    def plan(self, tile: int, lanes: int = 1, budget: int | None = None) -> MemoryPlan:
        """Bytes and layouts at tiles of so many images in so many lanes; allocates next to nothing.

        What BLAS takes it keeps. So products of this tile are measured only where the rest keeps
        to the budget, and what earlier measurements left behind counts in every later plan.
        """
        step, parameter_bytes, weights_bytes = self._planned(self.shape(tile, lanes))
        gc.collect()  # what was planned on is to go before the run
        rows, batch = len(self.source.labels), self.training.batch_size
        tiles = sizes(tile, [batch, rows % batch])
        evaluated = sizes(tile, [len(source.labels) for source in self.evaluated])
        plan = MemoryPlan(
            tile_images=tile,
            operations=step.once_operations
            + step.tile_operations * len(tiles) * lanes
            + step.evaluation_operations * len(evaluated) * lanes,
            step=step,
            loading_bytes=self.loading_bytes,
            loading_room=self.loading_room,
            baseline_bytes=self.baseline_bytes,
            blas_bytes=self._blas_bytes,
            parameter_bytes=parameter_bytes,
            weights_bytes=weights_bytes,
            held_space_bytes=self.held_space_bytes,
            held_data_bytes=self.held_data_bytes,
            pixel_bytes=lanes * self.pixel_bytes,
        )
        if budget is not None and plan.predicted_peak_rss_bytes > budget:
            return plan
        self._blas_bytes += self._blas(tile, lanes)
        return replace(plan, blas_bytes=self._blas_bytes)

    def _planned(self, shape: StepShape) -> tuple[StepPlan, int, int]:
        """The step; bytes of vectors as long as the parameters, and of the fused weights."""
        parameters = ParameterSet(self.adaptor)
        workspace = Workspace()
        weights = FusedWeights(self.adaptor, parameters.values, workspace)
        trained = trained_part(self.adaptor, head_only=self.training.head_only)
        step = plan_step(weights, self.source, shape)
        size = trained.parameter_count() * parameters.flat.itemsize
        return step, self.vectors * size, workspace.nbytes

    def _blas(self, tile: int, lanes: int) -> int:
        """What BLAS takes for products of this tile, measured."""
        return blas_bytes(self.adaptor, tile, lanes)


def sizes(tile: int, totals: Sequence[int]) -> set[int]:
    """Sizes of all tiles that so many images are cut into; each has its own programs."""
    return {tile} | {total % tile for total in totals if total % tile}


def choose_tile(planner: Planner, budget: int | None) -> MemoryPlan:
    """The plan of the largest tile that keeps to the budget.

    Raises:
        BudgetError: not even a tile of one image does.
    """
    if budget is None:
        return planner.plan(planner.largest_tile, planner.threads)
    for lanes in range(planner.threads, 0, -1):
        plan = largest_that_fits(planner, lanes, budget)
        if plan is not None:
            return plan
    plan = planner.plan(1)
    raise BudgetError(
        f"a memory budget of {mebibytes(budget)} cannot be kept: the least is "
        f"{mebibytes(plan.budget_bytes)}, of which {mebibytes(plan.baseline_bytes)} "
        f"are the interpreter, numpy and the data's labels; {planner.advice}"
    )


def planned_again(planner: Planner, choice: Mapping[str, int], budget: int | None) -> MemoryPlan:
    """The plan that an earlier process chose, so that a run goes on with the same bits.

    Raises:
        BudgetError: it does not keep to this budget. MismatchError: there is no such plan here.
    """
    plan = planner.plan(choice["tile"], choice["lanes"])
    if plan.choice != choice:
        raise MismatchError(
            f"the run to go on with was planned otherwise: {plan.choice} is not {dict(choice)}; "
            f"use the edgetune that started it"
        )
    if budget is not None and plan.predicted_peak_rss_bytes > budget + JITTER:
        raise BudgetError(
            f"a memory budget of {mebibytes(budget)} is less than the run to go on with needs: "
            f"with the same tiles as before it takes {mebibytes(plan.budget_bytes)}"
        )
    return plan


def largest_that_fits(planner: Planner, lanes: int, budget: int) -> MemoryPlan | None:
    """The plan of the largest tile that keeps to the budget in so many lanes; None: not even 1."""
    tile = 0
    while tile < planner.largest_tile:
        if planner.plan(tile + 1, lanes, budget).predicted_peak_rss_bytes > budget:
            break
        tile += 1
    for smaller in range(tile, 0, -1):  # what the tile too large left in BLAS counts too
        plan = planner.plan(smaller, lanes, budget)
        if plan.predicted_peak_rss_bytes <= budget:
            return plan
    return None


def check_limits(plan: MemoryPlan) -> None:
    """BudgetError where this process may not map what the plan needs."""
    needs = (plan.held_space_bytes, plan.held_data_bytes)  # this process's, so without SPACE_JITTER
    mapped = plan.mapped_bytes - (plan.lanes - 1) * LANE_SPACE  # lanes have run, so they hold it
    names = ("address space (ulimit -v)", "data segment (ulimit -d)")
    for name, need, limit in zip(names, needs, limits()):
        if limit is not None and need + mapped > limit:
            raise BudgetError(
                f"the run needs {mebibytes(need + mapped)} of {name}, and its limit is "
                f"{mebibytes(limit)}; raise the limit, or give a smaller --memory-budget so that "
                f"less is mapped"
            )


def check_budget(budget: int | None) -> None:
    """BudgetError where this process has passed its budget."""
    if budget is not None and peak_rss_bytes() > budget:
        raise BudgetError(
            f"the run passed its memory budget: peak RSS {mebibytes(peak_rss_bytes())}, "
            f"allowed {mebibytes(budget)}; give a larger --memory-budget"
        )


def blas_bytes(config: AdaptorConfig, images: int, lanes: int = 1, rows: int = 0) -> int:
    """Resident bytes that BLAS keeps for itself after products of the run's shapes, in lanes.

    `rows` is how many a product has that is wider than one adaptor's.
    """
    t = min(images * config.tokens, BLAS_ROWS)
    d, c = config.embed_dim, max(config.product_rows, config.classes, rows)
    before = rss_bytes()
    side_by_side([(multiply, t, d, c)] * lanes)
    return max(0, rss_bytes() - before)


def multiply(t: int, d: int, c: int) -> None:
    """Products as wide as a run's, cut as a run's are, in memory that is gone afterwards."""
    memory = allocate(4 * (t * d + c * d + t * c)).view(np.float32)
    memory.fill(1.0)
    z = memory[: t * d].reshape(t, d)
    right = memory[t * d :][: c * d].reshape(c, d)
    x = memory[t * d + c * d :].reshape(c, t)
    forward = pieces(right, z.T, x) or [(z, right.T, x.reshape(t, c))]  # as in emit_inputs
    backward = pieces(x, z, right) or [(x, z, right)]
    for piece in (*forward, *backward):
        np.matmul(*piece)


def mebibytes(count: int) -> str:
    """Bytes for people; up, so that the figure can be given back as a budget."""
    return f"{-(-count * 10 // (1 << 20)) / 10:.1f}MiB"
