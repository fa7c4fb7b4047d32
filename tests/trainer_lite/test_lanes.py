"""Tiles side by side: the same gradient, the same bits each time, errors that come through."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.program import Workspace
from edge_runtime.weights import FusedWeights
from tests.command_line import edgetune
from tests.feature_folders import write_features
from tests.problems import config_of, problem_of, random_parameters, step_of
from trainer_lite.build import StepShape, fastest_tile, plan_step, planned_step
from trainer_lite.evaluation import evaluate
from trainer_lite.step import tiles
from trainer_lite.threads import side_by_side


def gradients_of(lanes: int, tile: int, dtype: Any, rows: int = 7, **changes: Any) -> Any:
    config = config_of(**changes)
    problem = problem_of(config, rows, dtype)
    drop_path = 0.3 if config.blocks else 0.0
    parameters = random_parameters(config, dtype)
    step = step_of(parameters, problem, batch=rows, tile=tile, drop_path=drop_path, lanes=lanes)
    outcome = step.run(np.arange(rows), problem.labels, problem.drop)
    again = step.run(np.arange(rows), problem.labels, problem.drop)
    assert outcome == again
    return outcome, {name: gradient.copy() for name, gradient in step.gradients.items()}


@pytest.mark.parametrize(
    "changes", [{}, {"heads": 2, "pool": "cls+mean"}, {"kind": "linear"}], ids=str
)
@pytest.mark.parametrize("lanes", [2, 3, 9])
@pytest.mark.parametrize("tile", [1, 2, 4])
def test_lanes_add_up_to_the_same_gradient(lanes: int, tile: int, changes: Any) -> None:
    (loss, correct), expected = gradients_of(1, 7, np.float64, **changes)
    (found_loss, found_correct), found = gradients_of(lanes, tile, np.float64, **changes)
    assert found_correct == correct
    assert found_loss == pytest.approx(loss, rel=1e-12)
    for name, gradient in expected.items():
        size = np.abs(gradient).max()
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=1e-12 * size, err_msg=name)


def test_the_same_lanes_give_the_same_bits() -> None:
    runs = [gradients_of(3, 2, np.float32, rows=20) for _ in range(5)]
    for outcome, gradients in runs[1:]:
        assert outcome == runs[0][0]
        assert all((gradients[name] == runs[0][1][name]).all() for name in gradients)


def test_an_error_in_a_lane_comes_through_and_the_step_can_run_again() -> None:
    config = config_of()
    problem = problem_of(config, 8, np.float32)
    step = step_of(random_parameters(config, np.float32), problem, batch=8, tile=2, lanes=2)
    sound, main = problem.read, threading.get_ident()

    def read(rows: Any, z: Any, norms: Any, scratch: Any) -> None:
        if threading.get_ident() != main:
            raise OSError("the card was pulled")
        sound(rows, z, norms, scratch)

    problem.read = read  # type: ignore[method-assign]
    with pytest.raises(OSError, match="the card was pulled"):
        step.run(np.arange(8), problem.labels)
    problem.read = sound  # type: ignore[method-assign]
    loss, _ = step.run(np.arange(8), problem.labels)
    assert np.isfinite(loss)


@pytest.mark.parametrize("rows", [1, 3, 8, 11])
def test_lanes_evaluate_every_row_once(rows: int) -> None:
    config = config_of()
    problem = problem_of(config, rows, np.float32)
    weights = FusedWeights(config, random_parameters(config, np.float32), Workspace())
    weights.refresh()
    found = []
    for lanes in (1, 3):
        _, predictors = planned_step(weights, problem, StepShape(batch=4, tile=2, lanes=lanes))
        found.append(evaluate(predictors, problem).confusion)
    assert found[0].sum() == rows
    assert (found[0] == found[1]).all()


def test_each_lane_is_planned_for() -> None:
    config = config_of(tokens=50, embed_dim=64, rank=8, blocks=3)
    problem = problem_of(config, 8, np.float32)
    weights = FusedWeights(config, random_parameters(config, np.float32), Workspace())
    one, two, three = (
        plan_step(weights, problem, StepShape(batch=8, tile=2, lanes=lanes)) for lanes in (1, 2, 3)
    )
    assert one.arena_bytes < two.arena_bytes
    assert three.arena_bytes - two.arena_bytes == two.arena_bytes - one.arena_bytes
    assert two.lane_bytes < one.arena_bytes  # no gradient is assembled there


def test_results_come_in_order_and_all_tasks_end_before_an_error_is_raised() -> None:
    ended: list[int] = []

    def task(number: int) -> int:
        if number == 0:
            raise ValueError("the first")
        ended.append(number)
        return number

    assert side_by_side([(task, n) for n in (1, 2, 3)]) == [1, 2, 3]
    ended.clear()
    with pytest.raises(ValueError, match="the first"):
        side_by_side([(task, n) for n in (0, 1, 2)])
    assert sorted(ended) == [1, 2]


@pytest.mark.parametrize(("images", "tile"), [(1, 4), (8, 4), (9, 4)])
def test_tiles_cover_a_batch(images: int, tile: int) -> None:
    parts = tiles(images, tile)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(images))


@pytest.mark.parametrize("lanes", [1, 2, 4, 32, 64])
def test_no_lane_stays_without_a_tile(lanes: int) -> None:
    assert fastest_tile(197, 32, lanes) * lanes <= 32 or fastest_tile(197, 32, lanes) == 1


def test_train_with_threads_gives_the_same_file_twice(tmp_path: Path) -> None:
    features = write_features(tmp_path / "features").path
    for name in ("one", "two"):
        options = ("--epochs", 2, "--batch-size", 8, "--rank", 4, "--threads", 3)
        found = edgetune("train", features, "--out", tmp_path / name, *options, "--json")
        assert found.exit_code == 0, found.stderr
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
