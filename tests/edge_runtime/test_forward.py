"""The forward pass equals the model with its residual stream, written out in float64."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from edge_runtime import ops
from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import DataError, MismatchError
from edge_runtime.forward import default_tile
from edge_runtime.predictor import Predictor
from edge_runtime.program import Workspace
from edge_runtime.sources import ArrayFeatures
from edge_runtime.weights import FusedWeights
from tests.problems import config_of, poison, problem_of, random_parameters, use_power

Array = np.ndarray[Any, Any]

CASES: dict[str, dict[str, Any]] = {
    "one block": {"blocks": 1},
    "four blocks, two heads": {"blocks": 4, "heads": 2},
    "class token and mean": {"blocks": 3, "pool": "cls+mean", "prefix_tokens": 2},
    "class token": {"blocks": 3, "pool": "cls", "prefix_tokens": 3},
    "no prefix tokens": {"prefix_tokens": 0},
    "rank 1": {"rank": 1},
    "rank as wide as the features": {"rank": 24, "heads": 4},
    "a single token": {"tokens": 1, "prefix_tokens": 0},
    "linear": {"kind": "linear"},
    "linear, both": {"kind": "linear", "pool": "cls+mean"},
    "linear, class token": {"kind": "linear", "pool": "cls"},
}


def softmax(scores: Array, power: Any = np.exp) -> Array:
    weights: Array = power(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def layer_norm(u: Array, weight: Array, bias: Array, eps: float) -> Array:
    centred = u - u.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    normed: Array = centred / np.sqrt(variance + eps) * weight + bias
    return normed


def reference_logits(config: AdaptorConfig, parameters: Mapping[str, Array], z: Array) -> Array:
    """Logits of z (rows, tokens, dim) as docs/adaptor.md defines them, stream and all."""
    p = {name: array.astype(np.float64) for name, array in parameters.items()}
    images, n, _ = z.shape
    u = z.astype(np.float64) / config.input_rms
    for index in range(config.blocks):
        weight, bias = p["blocks.norm_weight"][index], p["blocks.norm_bias"][index]
        qkv = layer_norm(u, weight, bias, config.norm_eps) @ p["blocks.qkv"][index].T
        by_head = qkv.reshape(images, n, 3, config.heads, config.head_rank)
        q, k, v = (by_head[:, :, part].swapaxes(1, 2) for part in range(3))
        attention = softmax(q @ k.swapaxes(2, 3) / np.sqrt(config.head_rank))
        h = (attention @ v).swapaxes(1, 2).reshape(images, n, config.rank)
        u = u + h @ p["blocks.out"][index]
    found = {"cls": u[:, 0], "mean": u[:, config.prefix_tokens :].mean(axis=1)}
    parts = [layer_norm(found[name], 1.0, 0.0, config.norm_eps) for name in config.pool.split("+")]
    normed = np.concatenate(parts, 1) * p["head.norm_weight"] + p["head.norm_bias"]
    logits: Array = normed @ p["head.weight"].T + p["head.bias"]
    return logits


def predicted_logits(
    config: AdaptorConfig, parameters: Mapping[str, Array], z: Array, tile: int | None
) -> Array:
    """Logits from the code under test, with NaN in every buffer before it runs."""
    workspace = Workspace(parameters["head.weight"].dtype)
    weights = FusedWeights(config, parameters, workspace)
    predictor = Predictor(weights, workspace, tile)
    poison(workspace)
    weights.refresh()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return predictor.logits(ArrayFeatures(z))


def relative_error(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("tile", [1, 3, 7, 100])
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_model_written_out(case: str, tile: int) -> None:
    config = config_of(**CASES[case])
    parameters = random_parameters(config, np.float64)
    z = problem_of(config, 7, np.float64).features
    found = predicted_logits(config, parameters, z, tile)
    # norms are stored in float32, whatever the rest is
    assert relative_error(found, reference_logits(config, parameters, z)) < 1e-6


@pytest.mark.parametrize("tile", [1, 4, None])
@pytest.mark.parametrize("case", CASES)
def test_float32_is_close_enough_to_predict_with(case: str, tile: int | None) -> None:
    config = config_of(**CASES[case])
    parameters = random_parameters(config, np.float32)
    z = problem_of(config, 7, np.float32).features
    found = predicted_logits(config, parameters, z, tile)
    assert found.dtype == np.float32
    assert relative_error(found, reference_logits(config, parameters, z)) < 2e-5


@pytest.mark.parametrize("channel", [3000.0, -3000.0])
def test_one_outlying_channel_does_not_cost_precision(channel: float) -> None:
    config = config_of(tokens=20, embed_dim=192, rank=8, blocks=4, heads=2, input_rms=217.0)
    parameters = random_parameters(config, np.float32)
    z = problem_of(config, 5, np.float32).features
    z[:, :, 7] = channel
    found = predicted_logits(config, parameters, z, None)
    assert relative_error(found, reference_logits(config, parameters, z)) < 2e-5


def test_huge_weights_take_the_safe_softmax_and_stay_exact() -> None:
    config = config_of(blocks=2, heads=2)
    parameters = random_parameters(config, np.float64)
    parameters["blocks.qkv"] *= 30
    z = problem_of(config, 7, np.float64).features
    for tile in (1, 4, 7):
        found = predicted_logits(config, parameters, z, tile)
        assert relative_error(found, reference_logits(config, parameters, z)) < 1e-5


def attention_scores(images: int, room: int, size: float, dtype: Any) -> Array:
    """Scores of a tile in a buffer with room for `room` images."""
    heads, width, tokens = 2, 3, 6
    rng = np.random.default_rng(images)
    space = Workspace(dtype)
    space.array("scores", (room * heads * tokens * tokens,))
    scores = space.array("scores", (images, heads, tokens, tokens))
    poison(space)
    q, k = rng.standard_normal((2, images, heads, width, tokens)).astype(dtype)
    np.matmul(k.swapaxes(2, 3), q * dtype(size), scores)
    return scores


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0.01, 1.0, 10.0, 1e3, 1e10])
@pytest.mark.parametrize("images", [4, 1])
@pytest.mark.parametrize("power", [np.exp, np.exp2])
def test_exp_scores_are_a_softmax_for_scores_of_any_size(
    power: Any, images: int, size: float, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_power(power, monkeypatch)
    scores = attention_scores(images, 4, size, dtype)
    expected = softmax(scores.astype(np.float64).swapaxes(2, 3), power).swapaxes(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops.exp_scores(scores)
    assert np.isfinite(scores).all()
    assert (scores >= np.finfo(np.float32).tiny).all()  # denormals are slow
    found = scores.astype(np.float64)
    found /= found.sum(axis=2, keepdims=True)
    rounding = 60 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found, expected, rtol=rounding, atol=1e-30)


@pytest.mark.parametrize("tokens", [1, 10, 197, 400, 401, 5000])
def test_a_default_tile_has_at_least_one_image(tokens: int) -> None:
    assert default_tile(tokens) >= 1
    assert default_tile(tokens) == 1 or default_tile(tokens) * tokens <= 400


def test_features_of_another_shape_are_refused() -> None:
    config = config_of()
    parameters = random_parameters(config, np.float32)
    with pytest.raises(MismatchError, match="10 tokens x 24, these are 9 x 24"):
        predicted_logits(config, parameters, np.zeros((2, 9, 24), np.float32), None)


def test_logits_beyond_float32_are_refused_without_a_warning() -> None:
    config = config_of()
    parameters = random_parameters(config, np.float32)
    parameters["head.weight"] *= np.float32(3e38)
    z = problem_of(config, 3, np.float32).features
    with pytest.raises(DataError, match="the adaptor's logits are not finite"):
        predicted_logits(config, parameters, z, None)
