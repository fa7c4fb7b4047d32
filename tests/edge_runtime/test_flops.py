"""MACs counted from operations agree with a closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime import ops
from edge_runtime.flops import forward_macs, operation_cost, program_macs
from edge_runtime.predictor import Predictor
from edge_runtime.program import Program, Workspace
from edge_runtime.weights import FusedWeights
from tests.problems import config_of, problem_of, random_parameters
from trainer_lite.build import StepShape, plan_step


def ones(*shape: int) -> Any:
    return np.ones(shape)


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
    pool, pooled = (d + lr) * ("mean" in config.pool), len(config.pool.split("+"))
    tokens = t * (wide + before + gram + later + mixed + attention + pool)
    images = 2 * batch * pooled * (lr * d + k * d)
    refresh = lr * 4 * lr * d + depth * 3 * r * d
    head = pooled * (2 * batch * k * d + k * d + lr * batch * d)
    assembly = head + c * lr * d + lr * c * d + depth * 3 * r * d
    return tokens + images + refresh + assembly


@pytest.mark.parametrize("pool", ["mean", "cls", "cls+mean"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("blocks", [1, 3])
def test_a_step_multiplies_what_the_closed_form_says(blocks: int, heads: int, pool: str) -> None:
    config = config_of(
        blocks=blocks, heads=heads, pool=pool, prefix_tokens=0 if pool == "mean" else 1
    )
    problem = problem_of(config, 4, np.float32)
    parameters = random_parameters(config, np.float32)
    weights = FusedWeights(config, parameters, Workspace())
    plan = plan_step(weights, problem, StepShape(batch=4, tile=2))
    assert plan.macs == closed_form(config, 4)


@pytest.mark.parametrize("pool", ["mean", "cls", "cls+mean"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_inference_multiplies_what_the_closed_form_says(blocks: int, heads: int, pool: str) -> None:
    changes = {"blocks": blocks, "heads": heads} if blocks else {"kind": "linear"}
    config = config_of(pool=pool, **changes)
    weights = FusedWeights(config, random_parameters(config, np.float32), Workspace())
    predictor = Predictor(weights, Workspace(), tile=2)
    found = program_macs(predictor.tile)
    pooled = config.tokens * (config.embed_dim + config.rank * config.blocks)
    assert found == 2 * forward_macs(config)
    assert forward_macs(config) > (0 if pool == "cls" else pooled)


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_inference_of_every_token_multiplies_what_the_closed_form_says(blocks: int) -> None:
    changes = {"blocks": blocks, "heads": 2} if blocks else {"blocks": 0, "rank": 0}
    config = config_of(kind="segmentation", **changes)
    weights = FusedWeights(config, random_parameters(config, np.float32), Workspace())
    found = program_macs(Predictor(weights, Workspace(), tile=2).tile)
    assert found == 2 * forward_macs(config)
    pixels = Predictor(weights, Workspace(), tile=2, mask_size=30).tile
    side, size, classes = config.grid_side, 30, config.classes
    each = classes * (size * side * side + size * size * side)
    assert program_macs(pixels) == found + 2 * each


@pytest.mark.parametrize(
    ("function", "arguments", "flops", "nbytes"),
    [
        (np.add, (ones(3, 4), ones(3, 4), ones(3, 4)), 12, 3 * 96),
        (np.multiply, (ones(3, 4), 2.0, ones(3, 4)), 12, 2 * 96),
        (ops.fill, (ones(3, 4), 0.0), 0, 96),
        (ops.clamp, (ones(3, 4), 0.0), 12, 2 * 96),
        (ops.weigh_channels, (ones(3), ones(3, 4), ones(4)), 12, 8 * (3 + 12 + 4)),
        (np.matmul, (ones(3, 4), ones(4, 5), ones(3, 5)), 2 * 60, 8 * (12 + 20 + 15)),
        (np.add.reduce, (ones(3, 4), 0, None, ones(4)), 12, 8 * 16),
    ],
)
def test_costs(function: Any, arguments: Any, flops: int, nbytes: int) -> None:
    found = operation_cost(function, arguments, ())
    assert (found.flops, found.bytes) == (flops, nbytes)
    assert found.macs == (flops // 2 if function is np.matmul else 0)


def test_elementwise_operations_count_nothing() -> None:
    program = Program()
    x = np.ones((3, 4))
    program.emit(np.add, x, x, x)
    assert program_macs(program) == 0
    program.emit(np.matmul, x, np.ones((4, 5)), np.empty((3, 5)))
    assert program_macs(program) == 3 * 4 * 5
