"""What LiteRT trains: two signatures over variables, `backward` and `update`, made by TensorFlow.

    python -m benchmarks.peers.trainers.litert_graph PROBLEM

Writes the problem's graph, of builtin operators alone. Runs in an environment of its own, since a
device needs the runtime alone. Written so that XNNPACK, which does the work in LiteRT, takes nearly
every operator: what it does not take is slow, and splits what it takes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.peers.problem import (
    BETAS,
    EPS,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Problem,
    by_block,
    dotless,
    gathered,
)
from edge_runtime.config import AdaptorConfig

Tree = dict[str, Any]


def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any]:
    """Rows of x normalised, and x itself for whatever else is done with it.

    Its gradient is written out: that of a mean would tile, and two gradients of x would meet in
    ADD_N, and XNNPACK has neither.
    """

    @tf.custom_gradient
    def normed(x: Any, weight: Any, bias: Any) -> Any:
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        inverse = tf.math.rsqrt(tf.reduce_mean(centred * centred, -1, keepdims=True) + eps)
        whitened = centred * inverse

        def gradient(g: Any, beside: Any) -> Any:
            h = g * weight
            mean, along = (tf.reduce_mean(t, -1, keepdims=True) for t in (h, h * whitened))
            to_x = inverse * (h - mean - whitened * along) + beside
            return to_x, tf.reduce_sum(g * whitened, 0), tf.reduce_sum(g, 0)

        return (whitened * weight + bias, tf.identity(x)), gradient

    return normed(x, weight, bias)


def product(x: Any, weight: Any, **transposed: bool) -> Any:
    """Of matrices, as a batch of one: XNNPACK takes no FULLY_CONNECTED whose weights change."""
    batches = tf.expand_dims(x, 0), tf.expand_dims(weight, 0)
    return tf.squeeze(tf.matmul(*batches, **transposed), 0)


def mean_loss(config: AdaptorConfig, leaves: Tree, z: Any, labels: Any) -> Any:
    """Cross-entropy of features z (B, N, d), as in tests/torch_reference.py."""
    p, rank, heads = gathered(leaves), config.rank, config.heads
    images, n, dim = z.shape
    u = tf.reshape(z, (images * n, dim)) / config.input_rms
    for index in range(config.blocks):
        weight, bias = p["blocks.norm_weight"][index], p["blocks.norm_bias"][index]
        normed, u = layer_norm(u, weight, bias, config.norm_eps)
        qkv = product(normed, p["blocks.qkv"][index], transpose_b=True)
        q, k, v = (
            tf.transpose(tf.reshape(part, (images, n, heads, rank // heads)), (0, 2, 1, 3))
            for part in tf.split(qkv, 3, axis=-1)
        )
        scores = tf.matmul(q, k, transpose_b=True) * (rank // heads) ** -0.5
        h = tf.transpose(tf.matmul(tf.nn.softmax(scores), v), (0, 2, 1, 3))
        u = u + product(tf.reshape(h, (images * n, rank)), p["blocks.out"][index])
    # LiteRT has no gradient of a slice, but that of a split.
    sizes = [config.prefix_tokens, n - config.prefix_tokens]
    _, patches = tf.split(tf.reshape(u, (images, n, dim)), sizes, axis=1)
    pooled, _ = layer_norm(
        tf.reduce_mean(patches, 1), p["head.norm_weight"], p["head.norm_bias"], config.norm_eps
    )
    logits = tf.matmul(pooled, p["head.weight"], transpose_b=True) + p["head.bias"]
    chances = tf.nn.log_softmax(logits) * tf.one_hot(labels, config.classes)
    return -tf.reduce_mean(tf.reduce_sum(chances, -1))


class Training(tf.Module):
    """Parameters and moments as variables, by the names that graphs have."""

    def __init__(self, problem: Problem):
        super().__init__()
        self.config = problem.config
        start = by_block(problem.start)
        self.names = {name: dotless(name) for name in start}
        self.leaves = {dotless(name): tf.Variable(a) for name, a in start.items()}
        self.first = {name: tf.Variable(tf.zeros_like(a)) for name, a in self.leaves.items()}
        self.second = {name: tf.Variable(tf.zeros_like(a)) for name, a in self.leaves.items()}

    def backward(self, z: Any, labels: Any) -> Tree:
        """The loss and the gradient of every parameter."""
        with tf.GradientTape() as tape:
            leaves = {name: tf.identity(self.leaves[key]) for name, key in self.names.items()}
            loss = mean_loss(self.config, leaves, z, labels)
        return {"loss": loss, **tape.gradient(loss, self.leaves)}

    def update(self, count: Any, **gradients: Any) -> Tree:
        """AdamW with these gradients, the `count`-th time."""
        beta1, beta2 = BETAS
        for name, g in gradients.items():
            leaf, first, second = self.leaves[name], self.first[name], self.second[name]
            first.assign(beta1 * first + (1 - beta1) * g)
            second.assign(beta2 * second + (1 - beta2) * g * g)
            mean = first / (1 - beta1**count)
            spread = tf.sqrt(second / (1 - beta2**count)) + EPS
            decay = WEIGHT_DECAY if len(g.shape) == 2 else 0.0
            leaf.assign(leaf * (1 - LEARNING_RATE * decay) - LEARNING_RATE * mean / spread)
        return {"count": count}  # a signature has to give something


def signatures(training: Training, problem: Problem) -> Tree:
    """Both functions at the problem's shapes."""
    split = problem.features
    z = tf.TensorSpec((split.rows, split.tokens, split.embed_dim), tf.float32)
    labels = tf.TensorSpec((split.rows,), tf.int32)
    gradients = {name: tf.TensorSpec(a.shape, tf.float32) for name, a in training.leaves.items()}
    update = tf.function(training.update)
    return {
        "backward": tf.function(training.backward).get_concrete_function(z, labels),
        "update": update.get_concrete_function(tf.TensorSpec((), tf.float32), **gradients),
    }


def main() -> None:
    """Writes the graph."""
    problem = Problem.read(Path(sys.argv[1]))
    training = Training(problem)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(training, folder, signatures(training, problem))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.experimental_enable_resource_variables = True
        problem.graph.write_bytes(converter.convert())


if __name__ == "__main__":
    main()
