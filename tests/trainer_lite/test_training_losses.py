"""Ten steps of AdamW against the figures that PyTorch gave (tests/golden), in both precisions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.config import AdaptorConfig
from tests.golden.problem import BATCH, CONFIGS, LABELS, RATE, STEPS, features_of, parameters_of
from tests.problems import Problem, step_of
from trainer_lite.optim import AdamW
from trainer_lite.parameters import ParameterSet

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "training.json").read_text())


def train(config: AdaptorConfig, dtype: Any, tile: int) -> tuple[list[float], dict[str, Any]]:
    """(losses of ten steps, gradients of the first)."""
    parameters = ParameterSet(config, dtype)
    for name, start in parameters_of(config).items():
        parameters.values[name][...] = start
    problem = Problem(config, features_of(config).astype(dtype), np.array(LABELS), np.zeros(0))
    step = step_of(parameters.values, parameters.gradients, problem, batch=BATCH, tile=tile)
    optimiser = AdamW(
        parameters.flat,
        parameters.flat_gradient,
        decayed=parameters.decayed,
        weight_decay=0.05,
    )
    losses, first = [], {}
    for _ in range(STEPS):
        loss, _ = step.run(np.arange(BATCH), problem.labels)
        losses.append(loss / BATCH)
        first = first or {n: g.copy() for n, g in parameters.gradients.items()}
        optimiser.step(RATE)
    return losses, first


@pytest.mark.parametrize("tile", [1, 4, 6])
@pytest.mark.parametrize("name", CONFIGS)
def test_float64_reproduces_the_golden_run(name: str, tile: int) -> None:
    losses, first = train(CONFIGS[name], np.float64, tile)
    assert losses == pytest.approx(GOLDEN[name]["losses"], rel=1e-8)
    for parameter, (total, norm) in GOLDEN[name]["first_gradient_sum_and_norm"].items():
        gradient = first[parameter]
        assert math.sqrt((gradient**2).sum()) == pytest.approx(norm, rel=1e-9), parameter
        assert gradient.sum() == pytest.approx(total, rel=1e-8, abs=1e-9 * norm), parameter


@pytest.mark.parametrize("tile", [1, 4, 6])
@pytest.mark.parametrize("name", CONFIGS)
def test_float32_losses_stay_within_1e_4(name: str, tile: int) -> None:
    losses, _ = train(CONFIGS[name], np.float32, tile)
    assert losses == pytest.approx(GOLDEN[name]["losses"], abs=1e-4)


def test_the_golden_run_learns() -> None:
    for run in GOLDEN.values():
        assert run["losses"][-1] < 0.7 * run["losses"][0]
