"""Members side by side: what each would have come to by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edge_runtime.program import Workspace
from edge_runtime.weights import FusedWeights
from tests.layouts import Poisoned
from tests.problems import Problem, config_of, problem_of, random_parameters, step_of
from trainer_lite.build import StepShape, lane_memory, planned_step
from trainer_lite.evaluation import evaluate
from trainer_lite.members import Members
from trainer_lite.members_build import build_members, plan_members
from trainer_lite.members_predictor import MembersPredictor, evaluate_members
from trainer_lite.members_step import MembersStep

CASES: dict[str, tuple[Sequence[int], dict[str, Any]]] = {
    "one": ([4], {}),
    "ranks": ([8, 4, 4, 2], {"heads": 2, "blocks": 3}),
    "cls": ([4, 4], {"pool": "cls"}),
    "cls and mean": ([4, 4], {"pool": "cls+mean"}),
    "one block": ([6, 2], {"blocks": 1}),
    "linear": ([0, 0, 0], {"kind": "linear"}),
}


def parts_of(case: str, dtype: Any) -> tuple[list[Any], list[Any]]:
    """Configurations of a case, and parameters that are all different."""
    ranks, changes = CASES[case]
    configs = [config_of(**{**changes, "rank": rank}) for rank in ranks]
    return configs, [random_parameters(c, dtype, seed) for seed, c in enumerate(configs)]


def built(
    case: str, problem: Problem, **options: Any
) -> tuple[Members, MembersStep, list[MembersPredictor]]:
    configs, parameters = parts_of(case, problem.features.dtype)
    members = Members(configs, parameters, Workspace(problem.features.dtype))
    shape = StepShape(**options)
    plan = plan_members(members, problem, shape)
    return members, *build_members(members, problem, shape, plan, lane_memory(plan))


def problem_for(case: str, rows: int, dtype: Any) -> Problem:
    return problem_of(parts_of(case, dtype)[0][0], rows, dtype)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("tile", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_each_member_has_the_gradient_of_its_own_step(case: str, tile: int, lanes: int) -> None:
    problem = problem_for(case, 7, np.float64)
    drop_path = 0.3 if problem.config.blocks else 0.0
    options: dict[str, Any] = {"batch": 7, "tile": tile, "drop_path": drop_path, "smoothing": 0.1}
    _, step, _ = built(case, problem, lanes=lanes, **options)
    rows = np.arange(7)
    step.run(rows[:5], problem.labels[:5], problem.drop[:, :5])  # what it leaves must not count
    outcomes = step.run(rows, problem.labels, problem.drop)
    for index, (config, parameters) in enumerate(zip(*parts_of(case, np.float64))):
        alone = step_of(parameters, Problem(config, *fields(problem)), **options)
        loss, correct = alone.run(rows, problem.labels, problem.drop)
        assert outcomes[index] == (pytest.approx(loss, rel=1e-12), correct)
        expected = alone.gradient
        size = np.abs(expected).max()
        assert size > 0
        np.testing.assert_allclose(step.gradient(index), expected, rtol=0, atol=1e-12 * size)


def fields(problem: Problem) -> tuple[Any, Any, Any]:
    return problem.features, problem.labels, problem.drop


@pytest.mark.parametrize("case", CASES)
def test_dead_buffers_may_hold_anything(case: str) -> None:
    problem = problem_for(case, 6, np.float32)
    drop_path = 0.3 if problem.config.blocks else 0.0
    found = []
    for poisoned in (False, True):
        _, step, _ = built(case, problem, batch=6, tile=2, drop_path=drop_path)
        if not poisoned:
            outcomes = step.run(np.arange(6), problem.labels, problem.drop)
            gradients = [step.gradient(i).tobytes() for i in range(len(outcomes))]
        else:
            before, clear, _, *after = step.programs()
            place, tile = Poisoned(step.workspace), step.lanes[0].tile_of(2)
            place.run(before)
            place.run(clear)
            place.run_tiles(tile, 2, 6, problem.labels, problem.drop)
            outcomes, gradients = step.outcomes(problem.labels), []
            for program, gradient in zip(after, step.gradients):
                place.run(program)
                gradients.append(gradient.tobytes())
        found.append((outcomes, gradients))
    assert found[0] == found[1]


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_each_member_is_evaluated_as_by_itself(case: str, lanes: int) -> None:
    problem = problem_for(case, 31, np.float64)
    members, _, predictors = built(case, problem, batch=4, tile=2, lanes=lanes)
    members.refresh()
    found = evaluate_members(predictors, problem)
    different = set()
    for evaluation, config, parameters in zip(found, *parts_of(case, np.float64)):
        weights = FusedWeights(config, parameters, Workspace(np.float64))
        weights.refresh()
        _, alone = planned_step(weights, problem, StepShape(4, 2))
        assert evaluation is not None
        np.testing.assert_array_equal(evaluation.confusion, evaluate(alone, problem).confusion)
        different.add(evaluation.confusion.tobytes())
    assert len(different) > (len(found) > 1)  # else this would show nothing


def test_a_member_that_is_not_finite_harms_no_other() -> None:
    problem = problem_for("ranks", 6, np.float32)
    rows, found = np.arange(6), []
    for spoilt in (False, True):
        members, step, predictors = built("ranks", problem, batch=6, tile=2)
        if spoilt:
            for values in members.weights[1].parameters.values():
                values.fill(np.inf)
        with np.errstate(all="ignore"):
            outcomes = step.run(rows, problem.labels)
            gradients = [step.gradient(index).tobytes() for index in range(4)]
            members.refresh()
            evaluations = evaluate_members(predictors, problem)
        assert (evaluations[1] is None) == spoilt
        others = [0, 2, 3]
        confusions = [evaluations[i].confusion.tobytes() for i in others]  # type: ignore[union-attr]
        found.append(([(outcomes[i], gradients[i]) for i in others], confusions))
        assert np.isfinite(outcomes[1][0]) != spoilt
    assert found[0] == found[1]


def test_members_come_by_rank() -> None:
    configs = [config_of(rank=2), config_of(rank=4)]
    values = [random_parameters(config, np.float32) for config in configs]
    with pytest.raises(ValueError, match="largest first"):
        Members(configs, values, Workspace())
