"""Gradients by finite differences: no PyTorch needed. And the checker itself is checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.gradcheck import directional_error
from tests.problems import config_of, problem_of, random_parameters, step_of, use_power
from trainer_lite.step import counted

CASES: dict[str, dict[str, Any]] = {
    "mean, three blocks": {"blocks": 3},
    "cls, two heads": {"pool": "cls", "heads": 2},
    "cls and mean": {"pool": "cls+mean", "prefix_tokens": 2},
    "linear": {"kind": "linear"},
    "segmentation, three blocks, two heads": {"kind": "segmentation", "blocks": 3, "heads": 2},
    "segmentation, linear": {"kind": "segmentation", "rank": 0, "blocks": 0},
}


def gradient_and_loss(changes: dict[str, Any]) -> tuple[Any, Any, Any]:
    config = config_of(**changes)
    parameters = random_parameters(config, np.float64)
    problem = problem_of(config, 6, np.float64)
    step = step_of(parameters, problem, batch=6, tile=4, smoothing=0.1)
    probe = step_of(parameters, problem, batch=6, tile=6, smoothing=0.1)
    rows = np.arange(6)
    step.run(rows, problem.labels)
    count = counted(problem.labels)
    return parameters, step.gradients, lambda: probe.run(rows, problem.labels)[0] / count


@pytest.mark.parametrize("power", [np.exp, np.exp2])
@pytest.mark.parametrize("case", CASES)
def test_gradient_is_the_slope_of_the_loss(
    case: str, power: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_power(power, monkeypatch)
    parameters, gradients, loss = gradient_and_loss(CASES[case])
    for seed in range(3):
        assert directional_error(loss, parameters, gradients, seed) < 1e-6


@pytest.mark.parametrize("kind", ["attention", "segmentation"])
@pytest.mark.parametrize("name", sorted(config_of().parameter_shapes()))
def test_the_check_catches_a_planted_error(name: str, kind: str) -> None:
    parameters, gradients, loss = gradient_and_loss({"kind": kind})
    only = {n: g if n == name else np.zeros_like(g) for n, g in gradients.items()}
    one = {name: parameters[name]}
    assert directional_error(loss, one, only) < 1e-6
    only[name] = gradients[name] * 1.001
    assert directional_error(loss, one, only) > 5e-4
