"""MACs counted from operations agree with a closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.flops import program_macs
from edge_runtime.program import Program, Workspace
from edge_runtime.weights import FusedWeights
from tests.problems import config_of, problem_of, random_parameters
from trainer_lite.build import StepShape, plan_step


def closed_form(config: Any, batch: int) -> int:
    """MACs of a batch: forward, backward and assembly, from docs/adaptor.md."""
    d, r, e, n = config.embed_dim, config.rank, config.head_rank, config.tokens
    depth, heads, k, c = config.blocks, config.heads, config.classes, config.product_rows
    lr, t = depth * r, batch * n
    rows = [4 * r * (index + 1 < depth) + 3 * r * (index + 1 == depth) for index in range(depth)]
    before = sum(r * index * rows[index] for index in range(depth))
    later = sum(r * (c - (4 * r * index + 3 * r)) for index in range(depth - 1))
    gram = (depth - 1) * r * r
    wide = 2 * d * c
    mixed = c * lr
    attention = depth * heads * n * ((2 * e + 1) + (4 * e + 1 + 0))
    pool = (d if config.pool == "mean" else 0) + (lr if config.pool == "mean" else 0)
    tokens = t * (wide + before + gram + later + mixed + attention + pool)
    images = batch * (lr * d + k * d) + batch * (k * d + lr * d)
    refresh = lr * 4 * lr * d + depth * 3 * r * d
    assembly = batch * k * d + c * lr * d + lr * c * d + lr * batch * d + depth * 3 * r * d
    return tokens + images + refresh + assembly


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("blocks", [1, 3])
def test_a_step_multiplies_what_the_closed_form_says(blocks: int, heads: int, pool: str) -> None:
    config = config_of(
        blocks=blocks, heads=heads, pool=pool, prefix_tokens=0 if pool == "mean" else 1
    )
    problem = problem_of(config, 4, np.float32)
    parameters = random_parameters(config, np.float32)
    gradients = {name: np.zeros_like(a) for name, a in parameters.items()}
    weights = FusedWeights(config, parameters, Workspace())
    plan = plan_step(weights, gradients, problem, StepShape(batch=4, tile=2))
    assert plan.macs == closed_form(config, 4)


def test_elementwise_operations_count_nothing() -> None:
    program = Program()
    x = np.ones((3, 4))
    program.emit(np.add, x, x, x)
    assert program_macs(program) == 0
    program.emit(np.matmul, x, np.ones((4, 5)), np.empty((3, 5)))
    assert program_macs(program) == 3 * 4 * 5
