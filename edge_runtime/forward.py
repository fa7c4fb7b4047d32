"""The adaptor's forward pass over one tile of images, without its residual stream.

One product touches the width of the features, `z fused^T`; all else is rank-sized. Notation and
derivation: docs/adaptor.md. B images of N tokens, T = B N, width d, L blocks of rank r in `heads`
heads of width e, K classes.

The last product with that width is the head's: of the pooled stream, or, where every patch token
has logits, as rows of `fused` too (docs/adaptor.md, "A class for every token").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime import ops, products
from edge_runtime.config import AdaptorConfig
from edge_runtime.program import Program, Workspace
from edge_runtime.weights import FusedWeights

Array = np.ndarray[Any, Any]


TILE_TOKENS = 400  # a tile of about this many tokens stays in the caches (benchmarks/)


def default_tile(tokens: int) -> int:
    """Images a pass: enough tokens to keep the products busy, few enough for the caches."""
    return max(1, TILE_TOKENS // tokens)


class BlockBuffers:
    """Views that one block works in; with `keep` each block has its own, for the backward pass."""

    def __init__(self, forward: ForwardPass, index: int, keep: bool):
        config, space, images = forward.config, forward.workspace, forward.images
        r, heads, e, n = config.rank, config.heads, config.head_rank, config.tokens
        t = images * n
        name = f"block{index}" if keep else "block"
        rows = slice(4 * r * index, min(4 * r * (index + 1), config.product_rows))
        self.rows = rows
        self.projected = forward.x[rows]  # the whole bracket of this block, (4r or 3r, T)
        self.normed = self.projected[: 3 * r]  # P, then P / sigma, (3r, T)
        self.stream_u = self.projected[3 * r :]  # u_l U_l^T, (r, T); empty in the last block
        self.rstd = space.array(f"{name}.rstd", (t,))
        self.q = space.array(f"{name}.q", (heads, e, t))
        # without its bias, which adds the same to all scores of a query: softmax does not see it
        self.k = self.normed[r : 2 * r].reshape(heads, e, t)
        self.v1 = space.array(f"{name}.v1", (heads, e + 1, t))  # v and a row of ones
        self.scores = space.array(f"{name}.scores", (images, heads, n, n))
        self.inverse_sum = space.array(f"{name}.inverse_sum", (images, heads, n))
        self.scale = self.inverse_sum  # times drop-path, where there is one
        if forward.drop is not None:
            self.scale = space.array(f"{name}.scale", (images, heads, n))
        self.h = forward.h[r * index : r * (index + 1)]

    def by_image(self, array: Array, images: int) -> Array:
        """(heads, c, T) or (heads * e, T) seen as (images, heads, c, N)."""
        heads = self.q.shape[0]
        tokens = self.scores.shape[-1]
        return array.reshape(heads, -1, images, tokens).transpose(2, 0, 1, 3)


class ForwardPass:
    """Emits the forward pass of one tile and holds the buffers it runs in.

    Args:
        drop: drop-path factors (blocks, images), or None where there is no drop-path.
        keep: give each block its own buffers, so that a backward pass can follow.

    Set `z` (T, d), decoded features, and `norms` (T,), their centred squared norms, before each
    run: `variance` is made of them in place, LayerNorm's of the stream, eps included. `logits`
    holds the result: (B, K), or (K, T) where every token has its own; prefix tokens have some
    there, too, which mean nothing.
    """

    def __init__(
        self,
        weights: FusedWeights,
        workspace: Workspace,
        images: int,
        *,
        keep: bool = False,
        drop: Array | None = None,
    ):
        self.config: AdaptorConfig = weights.config
        self.weights, self.workspace, self.images, self.drop = weights, workspace, images, drop
        config = self.config
        d, r, n, depth = config.embed_dim, config.rank, config.tokens, config.blocks
        t, c = images * n, config.product_rows
        self.z = workspace.array("z", (t, d))
        self.norms = self.variance = workspace.array("norms", (t,))
        self.x = workspace.array("x", (c, t))
        self.h = workspace.array("h", (depth * r, t))
        self.blocks = [BlockBuffers(self, index, keep) for index in range(depth)]
        if config.dense:
            self.head_normed = self.x[c - config.classes :]  # P, then P / sigma, as in a block
            self.head_rstd = workspace.array("head.rstd", (t,))
            self.logits = workspace.array("logits", (config.classes, t))
            return
        pooled = images * len(config.pools)
        self.pooled_h = workspace.array("pooled_h", (depth * r, pooled))
        self.normed_pool = workspace.array("head.normed", (images, config.head_dim))
        self.head_rstd = workspace.array("head.rstd", (pooled, 1))
        self.head_input = workspace.array("head.input", (images, config.head_dim))
        self.logits = workspace.array("logits", (images, config.classes))

    @property
    def image_logits(self) -> Array:
        """The logits of each image: (B, K), or the grids of its patch tokens (B, K, side, side)."""
        config, images = self.config, self.images
        if not config.dense:
            return self.logits
        grids = self.logits.reshape(config.classes, images, -1)[:, :, config.prefix_tokens :]
        shape = (config.classes, images, config.grid_side, config.grid_side)
        return grids.reshape(shape).swapaxes(0, 1)

    def emit(self, program: Program) -> None:
        """Appends the whole forward pass."""
        pooled_z = self.emit_own_pool(program)
        if self.config.product_rows:
            program.section("forward: product with the features")
            emit_inputs(program, self.workspace, [self])
            self.emit_norms(program, self.norms)
        self.emit_after_product(program, pooled_z)

    def emit_norms(self, program: Program, norms: Array) -> None:
        """Takes up the features' norms: the variance of the stream's tokens."""
        config = self.config
        program.emit(np.multiply, norms, config.input_rms**-2.0 / config.embed_dim, self.variance)
        program.emit(np.add, self.variance, config.norm_eps, self.variance)

    def emit_own_pool(self, program: Program) -> Array | None:
        """Appends the pooling of z, while it is in the caches; None where every token has logits.

        Returns:
            what `emit_after_product` takes.
        """
        if self.config.dense:
            return None
        pooled_z = self.workspace.array("pooled", (len(self.head_rstd), self.config.embed_dim))
        program.section("forward: head")
        self.emit_pool(program, pooled_z)
        return pooled_z

    def emit_after_product(self, program: Program, pooled_z: Array | None) -> None:
        """Appends all that follows from x and norms.

        `pooled_z` is what `emit_pool` gave; None where every token has logits.
        """
        for index, block in enumerate(self.blocks):
            program.section(f"forward: block {index}, q k v")
            self._emit_projection(program, index, block)
            program.section(f"forward: block {index}, attention")
            self._emit_attention(program, index, block)
            if index + 1 < self.config.blocks or self.config.dense:
                program.section(f"forward: block {index}, norm of the stream")
                self._emit_stream_norm(program, index, block)
        program.section("forward: head")
        if pooled_z is None:
            self._emit_token_head(program)
        else:
            self._emit_head(program, pooled_z)

    def _emit_projection(self, program: Program, index: int, block: BlockBuffers) -> None:
        """q, k, v of LN(u_l): what the blocks before added to z joins through `cross`."""
        weights, r = self.weights, self.config.rank
        if index:
            before = slice(0, r * index)
            mixed = self.workspace.array("mixed", (4 * r, self.z.shape[0]))[: len(block.projected)]
            program.emit(np.matmul, weights.cross[before, block.rows].T, self.h[before], mixed)
            program.emit(np.add, block.projected, mixed, block.projected)
        program.emit(ops.inverse_root, self.variance, block.rstd)
        program.emit(np.multiply, block.normed, block.rstd, block.normed)
        bias = weights.bias[index][:, None]
        q, v = block.normed[:r], block.normed[2 * r :]
        program.emit(np.add, q, bias[:r], block.q.reshape(r, -1))
        shape = block.q.shape
        program.emit(
            np.add, v.reshape(shape), bias[2 * r :].reshape(shape[0], -1, 1), block.v1[:, :-1]
        )
        program.emit(ops.fill, block.v1[:, -1], 1.0)

    def _emit_attention(self, program: Program, index: int, block: BlockBuffers) -> None:
        """H = softmax(q k^T) v in each head; the sum comes out as v's extra row of ones."""
        images = self.images
        heads, e, _ = block.q.shape
        summed = self.workspace.array("summed", (images, heads, e + 1, self.config.tokens))
        q, k, v1 = (block.by_image(a, images) for a in (block.q, block.k, block.v1))
        program.emit(ops.product_over(e), k.swapaxes(2, 3), q, block.scores)
        program.emit(ops.exp_scores, block.scores)
        program.emit(np.matmul, v1, block.scores, summed)
        program.emit(np.reciprocal, summed[:, :, e], block.inverse_sum)
        if self.drop is not None:
            factor = self.drop[index][:, None, None]
            program.emit(np.multiply, block.inverse_sum, factor, block.scale)
        h = block.by_image(block.h, images)
        program.emit(np.multiply, summed[:, :, :e], block.scale[:, :, None], h)

    def _emit_stream_norm(self, program: Program, index: int, block: BlockBuffers) -> None:
        """|u_{l+1}|^2 = |u_l|^2 + H (2 u_l U^T + H G) a row, at least 0; over d, plus eps."""
        config, r = self.config, self.config.rank
        own = slice(r * index, r * (index + 1))
        gram = self.weights.cross[own, block.rows.start + 3 * r : block.rows.stop]
        work = self.workspace.array("rank_work", block.h.shape)
        added = self.workspace.array("added", self.variance.shape)
        share = np.full(r, 1.0 / config.embed_dim, work.dtype)
        program.emit(np.matmul, gram, block.h, work)
        program.emit(np.add, work, block.stream_u, work)
        program.emit(np.add, work, block.stream_u, work)
        program.emit(np.multiply, work, block.h, work)
        program.emit(ops.weigh_channels, share, work, added)
        program.emit(np.add, self.variance, added, self.variance)
        program.emit(ops.clamp, self.variance, config.norm_eps)

    def _emit_token_head(self, program: Program) -> None:
        """LN(u_L) of every token, linear to the classes: the bracket of one block more."""
        config, weights, normed = self.config, self.weights, self.head_normed
        if config.blocks:
            mixed = self.workspace.array("head.mixed", normed.shape)
            cross = weights.cross[:, config.product_rows - config.classes :]
            program.emit(np.matmul, cross.T, self.h, mixed)
            program.emit(np.add, normed, mixed, normed)
        program.emit(ops.inverse_root, self.variance, self.head_rstd)
        program.emit(np.multiply, normed, self.head_rstd, normed)
        program.emit(np.add, normed, weights.head_bias[:, None], self.logits)

    def emit_pool(self, program: Program, pooled_z: Array) -> None:
        """Pools z over input_rms: (B P, d), P pooled vectors of each image."""
        config = self.config
        z = self.z.reshape(self.images, config.tokens, config.embed_dim)
        by_image = pooled_z.reshape(self.images, len(config.pools), config.embed_dim)
        for index, tokens in enumerate(config.pools):
            target = by_image[:, index]
            if len(tokens) == 1:
                program.emit(np.multiply, z[:, tokens[0]], 1.0 / config.input_rms, target)
            else:
                weight = mean_weights(tokens, config.tokens, self.z.dtype)
                program.emit(np.matmul, weight / config.input_rms, z, target[:, None])

    def _emit_pool_h(self, program: Program) -> None:
        """Pools what the blocks add, likewise."""
        config = self.config
        h = self.h.reshape(len(self.h), self.images, config.tokens)
        by_image = self.pooled_h.reshape(len(h), self.images, len(config.pools))
        for index, tokens in enumerate(config.pools):
            target = by_image[:, :, index]
            if len(tokens) == 1:
                program.emit(np.copyto, target, h[:, :, tokens[0]])
            else:
                weight = mean_weights(tokens, config.tokens, self.z.dtype)
                program.emit(np.matmul, h, weight[0], target)

    def _emit_head(self, program: Program, pooled: Array) -> None:
        """Pool the stream, of which z is pooled; LayerNorm of each pooled vector; linear."""
        config, parameters = self.config, self.weights.parameters
        if config.blocks:
            self._emit_pool_h(program)
            added = self.workspace.array("pooled_added", pooled.shape)
            stream = self.workspace.array("pooled", pooled.shape)
            program.emit(np.matmul, self.pooled_h.T, self.weights.u, added)
            program.emit(np.add, pooled, added, stream)
            pooled = stream
        normed = self.normed_pool.reshape(pooled.shape)
        program.emit(ops.layer_norm, pooled, config.norm_eps, self.head_rstd, normed)
        head_input = self.head_input
        program.emit(np.multiply, self.normed_pool, parameters["head.norm_weight"], head_input)
        program.emit(np.add, head_input, parameters["head.norm_bias"], head_input)
        program.emit(np.matmul, head_input, parameters["head.weight"].T, self.logits)
        program.emit(np.add, self.logits, parameters["head.bias"], self.logits)


def emit_inputs(program: Program, workspace: Workspace, forwards: Sequence[ForwardPass]) -> None:
    """Appends x = fused z^T / input_rms of passes on one z, by one product for them all.

    Where that is not cut, it is faster the other way round, and then transposed.
    """
    z = forwards[0].z
    rights = [forward.weights.fused[: forward.config.product_rows] for forward in forwards]
    right = rights[0] if len(rights) == 1 else np.concatenate(rights)
    x = forwards[0].x if len(rights) == 1 else workspace.array("wide_x", (len(right), len(z)))
    cut = products.pieces(right, z.T, x)
    if not cut:
        x = workspace.array("wide_x", (len(z), len(right))).T
    for product in cut or [(z, right.T, x.T)]:
        program.emit(np.matmul, *product)
    end = 0
    for forward in forwards:
        start, end = end, end + len(forward.x)
        own, scale = x[start:end], 1.0 / forward.config.input_rms
        if cut:
            program.emit(np.multiply, own, scale, forward.x)
        else:  # in two steps: old numpy buffers what it also transposes
            program.emit(np.multiply, own, scale, own)
            program.emit(np.copyto, forward.x, own)


def mean_weights(tokens: range, count: int, dtype: Any) -> Array:
    """Weight of every one of `count` tokens in a mean, (1, count): w of the derivation."""
    weight = np.zeros((1, count), dtype)
    weight[0, tokens.start : tokens.stop] = 1.0 / len(tokens)
    return weight
