"""Steps in an arena: the same bits as with every buffer apart, and nothing else allocated."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from edge_runtime.program import Workspace
from edge_runtime.weights import FusedWeights
from tests.layouts import Poisoned, live_peak
from tests.problems import config_of, problem_of, random_parameters, step_of
from trainer_lite.arena import Arena
from trainer_lite.build import StepShape, build_step, plan_step
from trainer_lite.step import TrainingStep

CASES: dict[str, dict[str, Any]] = {
    "mean": {"blocks": 3, "heads": 2},
    "cls": {"blocks": 2, "pool": "cls"},
    "cls and mean": {"blocks": 2, "pool": "cls+mean"},
    "one block": {"blocks": 1},
    "linear": {"kind": "linear"},
    "segmentation": {"kind": "segmentation", "blocks": 3, "heads": 2},
    "segmentation, linear": {"kind": "segmentation", "rank": 0, "blocks": 0},
}


def run_poisoned(step: TrainingStep, batch: int, labels: Any, drop: Any) -> tuple[float, int]:
    """A batch of full tiles in which, before each operation, all that is dead turns to NaN."""
    before, clear, _, after = step.programs()
    place = Poisoned(step.workspace)
    place.run(before)
    place.run(clear)
    place.run_tiles(step.lanes[0].tile_of(step.tile_images), step.tile_images, batch, labels, drop)
    outcome = step.outcome(labels)
    place.run(after)
    return outcome


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("head_only", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_dead_buffers_may_hold_anything(case: str, head_only: bool, dtype: Any) -> None:
    config = config_of(**CASES[case])
    problem = problem_of(config, 6, dtype)
    drop_path = 0.3 if config.blocks else 0.0
    if head_only and case.startswith("segmentation"):
        pytest.skip("there the head is no part of its own")
    options = {"batch": 6, "tile": 2, "drop_path": drop_path, "head_only": head_only}
    found = []
    for planned in (False, True):
        parameters = random_parameters(config, dtype)
        step = step_of(parameters, problem, planned=planned, **options)
        if planned:
            result = run_poisoned(step, 6, problem.labels, problem.drop)
        else:
            result = step.run(np.arange(6), problem.labels, problem.drop)
        found.append((result, {n: g.tobytes() for n, g in step.gradients.items()}))
    assert found[0] == found[1]


def test_training_and_evaluation_share_one_small_arena() -> None:
    config = config_of(tokens=50, embed_dim=64, blocks=4, rank=8)
    problem = problem_of(config, 8, np.float32)
    parameters = random_parameters(config, np.float32)
    weights = FusedWeights(config, parameters, Workspace())
    shape = StepShape(batch=8, tile=4)
    plan = plan_step(weights, problem, shape)
    apart = sum(buffer.nbytes for buffer in plan.layout.lifetimes)
    assert plan.arena_bytes < 0.8 * apart
    for layout in (plan.layout, plan.evaluation):
        assert live_peak(layout.lifetimes) <= layout.nbytes <= 1.1 * live_peak(layout.lifetimes)
    built, (predictor,) = build_step(weights, problem, shape, plan)
    step, evaluation = built.workspace, predictor.workspace
    assert isinstance(step, Arena)
    assert isinstance(evaluation, Arena)
    assert step.memory is evaluation.memory


def test_a_step_allocates_nothing_that_grows() -> None:
    for tokens, embed_dim, batch in ((20, 32, 8), (80, 256, 32)):
        config = config_of(tokens=tokens, embed_dim=embed_dim, blocks=3, rank=8)
        problem = problem_of(config, batch, np.float32)

        def read(rows: Any, z: Any, norms: Any, scratch: Any) -> None:
            z.fill(1.0)
            norms.fill(1.0)

        problem.read = read  # type: ignore[method-assign]
        parameters = random_parameters(config, np.float32)
        step = step_of(parameters, problem, batch=batch, tile=4)
        rows, labels = np.arange(batch), problem.labels
        step.run(rows, labels)
        tracemalloc.start()
        step.run(rows, labels)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 64 << 10
