"""JAX: forward, backward and AdamW in one jitted function."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.problem import (
    BETAS,
    EPS,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Problem,
    by_block,
    gathered,
)
from edge_runtime.config import AdaptorConfig

Array = np.ndarray[Any, Any]
Tree = dict[str, Any]


def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps) * weight + bias


def mean_loss(config: AdaptorConfig, leaves: Tree, z: Any, labels: Any) -> Any:
    """Cross-entropy of features z (B, N, d), as in tests/torch_reference.py."""
    p, rank, heads = gathered(leaves), config.rank, config.heads
    images, n, _ = z.shape
    u = z / config.input_rms
    for index in range(config.blocks):
        weight, bias = p["blocks.norm_weight"][index], p["blocks.norm_bias"][index]
        normed = layer_norm(u, weight, bias, config.norm_eps)
        q, k, v = (
            part.reshape(images, n, heads, rank // heads).transpose(0, 2, 1, 3)
            for part in jnp.split(normed @ p["blocks.qkv"][index].T, 3, axis=-1)
        )
        scores = q @ k.transpose(0, 1, 3, 2) * (rank // heads) ** -0.5
        h = (jax.nn.softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(images, n, rank)
        u = u + h @ p["blocks.out"][index]
    pooled = u[:, 0] if config.pool == "cls" else u[:, config.prefix_tokens :].mean(1)
    pooled = layer_norm(pooled, p["head.norm_weight"], p["head.norm_bias"], config.norm_eps)
    chances = jax.nn.log_softmax(pooled @ p["head.weight"].T + p["head.bias"])
    return -jnp.take_along_axis(chances, labels[:, None], axis=1).mean()


def adamw(leaves: Tree, gradients: Tree, first: Tree, second: Tree, count: Any) -> Any:
    """One update of everything: (parameters, first moments, second moments)."""
    beta1, beta2 = BETAS
    for name, g in gradients.items():
        first = {**first, name: beta1 * first[name] + (1 - beta1) * g}
        second = {**second, name: beta2 * second[name] + (1 - beta2) * g * g}
        mean = first[name] / (1 - beta1**count)
        spread = jnp.sqrt(second[name] / (1 - beta2**count)) + EPS
        decay = WEIGHT_DECAY if g.ndim == 2 else 0.0
        kept = leaves[name] * (1 - LEARNING_RATE * decay)
        leaves = {**leaves, name: kept - LEARNING_RATE * mean / spread}
    return leaves, first, second


class Trainer:
    versions: ClassVar = {"jax": jax.__version__}

    def __init__(self, problem: Problem):
        features, labels = problem.decoded()
        self.batch = jnp.asarray(features), jnp.asarray(labels, jnp.int32)
        leaves = {name: jnp.asarray(a) for name, a in by_block(problem.start).items()}
        first = {name: jnp.zeros_like(a) for name, a in leaves.items()}
        second = {name: jnp.zeros_like(a) for name, a in leaves.items()}
        self.state, self.count = (leaves, first, second), 0
        self.differentiate = jax.jit(
            jax.value_and_grad(lambda leaves, z, c: mean_loss(problem.config, leaves, z, c))
        )

        def update(state: Any, z: Any, labels: Any, count: Any) -> Any:
            leaves, first, second = state
            _, gradients = self.differentiate(leaves, z, labels)
            return adamw(leaves, gradients, first, second, count)

        self.update = jax.jit(update, donate_argnums=0)

    def gradients(self) -> tuple[float, dict[str, Array]]:
        loss, gradients = self.differentiate(self.state[0], *self.batch)
        return float(loss), {name: np.asarray(g) for name, g in gradients.items()}

    def step(self) -> None:
        self.count += 1
        self.state = jax.block_until_ready(self.update(self.state, *self.batch, float(self.count)))


def trainer(problem: Problem, threads: int) -> Trainer:
    """JAX takes its threads from the cores that the process is kept to."""
    return Trainer(problem)
