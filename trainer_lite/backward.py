"""The backward pass of one tile: every gradient, without the residual stream or its gradient.

One product touches the width of the features, `e z`; it is the mirror of the forward pass's
`right z^T`. Notation and derivation: docs/adaptor.md. Everything that sums over tokens is added to
accumulators, so that a batch may run in tiles of any size and give the same gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime import ops
from edge_runtime.forward import BlockBuffers, ForwardPass
from edge_runtime.products import emit_product
from edge_runtime.program import Program, Workspace
from trainer_lite.sums import TokenSums

Array = np.ndarray[Any, Any]


class BackwardPass:
    """Emits the backward pass of the tile that `forward` (made with `keep`) has just run.

    Set `dlogits`, of the shape of the logits, before each run; it is overwritten where that is
    (K, T). Results are added to `sums`; a pooled head's per-image factors are left in
    `stream_gradient`, g of the derivation, d wide for each pooled vector. It ends there where no
    blocks are trained.
    """

    def __init__(self, forward: ForwardPass, workspace: Workspace, sums: TokenSums):
        self.forward, self.workspace, self.sums = forward, workspace, sums
        config, images = sums.config, forward.images
        t, c = images * config.tokens, config.product_rows
        self.dlogits = workspace.array("dlogits", forward.logits.shape)
        if not config.dense:
            self.dhead_input = workspace.array("head.dinput", (images, config.head_dim))
            self.stream_gradient = workspace.array("head.g", (images, config.head_dim))
            pooled = (config.blocks * config.rank, images * len(config.pools))
            self.pooled_dh = workspace.array("pooled_dh", pooled)
        self.e = workspace.array("e", (c, t))  # dP rows and -C H rows, laid out as x
        self.dh = workspace.array("dh", (config.blocks * config.rank, t))
        self.later_c = workspace.array("later_c", (t,))  # -C_l: sum of c over the blocks after l

    def emit(self, program: Program) -> None:
        """Appends the whole backward pass."""
        config = self.sums.config
        program.section("backward: head")
        if not config.dense:
            self._emit_head(program)
            if not config.blocks:
                return
        program.emit(ops.fill, self.later_c, 0.0)
        if config.dense:
            self._emit_token_head(program)
        if config.blocks:
            self._emit_pooled_dh(program)
        for index in reversed(range(config.blocks)):
            block = self.forward.blocks[index]
            program.section(f"backward: block {index}, dH")
            dh = self._emit_dh(program, index, block)
            program.section(f"backward: block {index}, attention")
            dqkv = self._emit_attention(program, block, dh)
            program.section(f"backward: block {index}, q k v")
            self._emit_projection(program, index, block, dqkv)
        program.section("backward: product with the features")
        self._emit_products(program)

    def _emit_head(self, program: Program) -> None:
        """Back through linear and LayerNorm to g, the gradient of the pooled stream."""
        forward, config = self.forward, self.sums.config
        parameters = forward.weights.parameters
        g = self.stream_gradient
        program.emit(np.matmul, self.dlogits, parameters["head.weight"], self.dhead_input)
        program.emit(np.multiply, self.dhead_input, parameters["head.norm_weight"], g)
        g, normed = (array.reshape(-1, config.embed_dim) for array in (g, forward.normed_pool))
        work = self.workspace.array("pooled", g.shape)
        mean = self.workspace.array("head.mean", (len(g), 1))
        program.emit(layer_norm_backward, g, normed, forward.head_rstd, mean, work)
        if config.blocks:
            program.emit(np.matmul, forward.weights.u, g.T, self.pooled_dh)

    def _emit_token_head(self, program: Program) -> None:
        """As back through the q, k, v of a block: dP = dY / sigma into e, and c."""
        forward, config, sums = self.forward, self.forward.config, self.sums
        dbias = self.workspace.array("head.dbias", (config.classes,))
        ones = np.ones(self.dlogits.shape[1], self.dlogits.dtype)
        program.emit(ops.sum_tokens, self.dlogits, ones, dbias)
        program.emit(np.add, sums.dhead_bias, dbias, sums.dhead_bias)
        dp = self.e[config.product_rows - config.classes :]
        program.emit(np.multiply, self.dlogits, forward.head_rstd, dp)
        if config.blocks:
            brackets = (dp, forward.head_normed, forward.head_rstd, self.dlogits)
            self._emit_norm(program, forward.blocks[-1], *brackets)

    def _emit_pooled_dh(self, program: Program) -> None:
        """The head's part of every dH: w_t (g U_j^T) of each token t that is pooled."""
        images, n = self.forward.images, self.forward.config.tokens
        program.emit(ops.fill, self.dh, 0.0)
        if self.forward.config.dense:
            return  # it joins through e
        by_token = self.dh.reshape(len(self.dh), images, n)
        by_part = self.pooled_dh.reshape(len(self.dh), images, -1)
        for part, tokens in enumerate(self.forward.config.pools):
            head = by_part[:, :, part : part + 1]
            if len(tokens) > 1:
                program.emit(np.multiply, head, 1.0 / len(tokens), head)
            # no token is pooled twice; to add a column, numpy would allocate
            program.emit(np.copyto, by_token[:, :, tokens.start : tokens.stop], head)

    def _emit_dh(self, program: Program, index: int, block: BlockBuffers) -> Array:
        """dH_j = [U_j W_l, G_j.] e - C_j u_j U_j^T + the head's part."""
        config, forward = self.forward.config, self.forward
        r = config.rank
        own = slice(r * index, r * (index + 1))
        dh = self.dh[own]
        if index + 1 < config.blocks or config.dense:
            later = slice(block.rows.start + 3 * r, config.product_rows)
            work = self.workspace.array("rank_work", dh.shape)
            program.emit(np.matmul, forward.weights.cross[own, later], self.e[later], work)
            program.emit(np.add, dh, work, dh)
            program.emit(np.multiply, block.stream_u, self.later_c, work)
            program.emit(np.add, dh, work, dh)
        return dh

    def _emit_attention(self, program: Program, block: BlockBuffers, dh: Array) -> Array:
        """dq, dk, dv from dH.

        With A the attention and s the kept exponentials, A = s / sum, softmax's gradient
        A (V^T dH - delta) is one product and one elementwise pass:
        s [V; 1]^T [dH / sum; -delta / sum].
        """
        forward, space = self.forward, self.workspace
        images, n = forward.images, forward.config.tokens
        heads, e, t = block.q.shape
        right = space.array("dh_over_sum", (images, heads, e + 1, n))
        dscores = space.array("dscores", block.scores.shape)
        dqkv = space.array("dqkv", (3, heads, e, t))
        dq, dk, dv = (block.by_image(part, images) for part in dqkv)
        q, k, v1 = (block.by_image(a, images) for a in (block.q, block.k, block.v1))
        x_rows = space.array("attention.x_rows", (images, heads, n, e))
        rows = space.array("attention.rows", (images, heads, n, e))
        work = space.array("rank_work", block.h.shape).reshape(heads, e, t)
        delta = space.array("delta", (heads, t))  # negative, and not yet over the sum
        share = np.full(e, -1.0, dqkv.dtype)
        program.emit(np.multiply, block.h.reshape(work.shape), dh.reshape(work.shape), work)
        for part, out in zip(work, delta):
            program.emit(ops.weigh_channels, share, part, out)
        by_image = delta.reshape(heads, images, n).swapaxes(0, 1)
        program.emit(np.multiply, by_image, block.inverse_sum, right[:, :, e])
        dh = block.by_image(dh, images)
        program.emit(np.multiply, dh, block.scale[:, :, None], right[:, :, :e])
        program.emit(ops.times_transposed, right[:, :, :e], block.scores, x_rows, rows, dv)
        if ops.LOG_BASE != 1:
            program.emit(np.multiply, right, ops.LOG_BASE, right)
        program.emit(np.matmul, v1.swapaxes(2, 3), right, dscores)
        program.emit(np.multiply, dscores, block.scores, dscores)
        program.emit(np.matmul, k, dscores, dq)
        program.emit(ops.times_transposed, q, dscores, x_rows, rows, dk)
        return dqkv.reshape(3 * heads * e, t)

    def _emit_projection(
        self, program: Program, index: int, block: BlockBuffers, dqkv: Array
    ) -> None:
        """dP = dY / sigma into e, and c_l."""
        r = self.forward.config.rank
        dbias = self.workspace.array("dbias", (3 * r,))
        program.emit(ops.sum_tokens, dqkv, np.ones(dqkv.shape[1], dqkv.dtype), dbias)
        program.emit(np.add, self.sums.dbias[index], dbias, self.sums.dbias[index])
        dp = self.e[block.rows.start : block.rows.start + 3 * r]
        program.emit(np.multiply, dqkv, block.rstd, dp)
        if index:
            before = self.forward.blocks[index - 1]
            self._emit_norm(program, before, dp, block.normed, block.rstd, dqkv)

    def _emit_norm(
        self,
        program: Program,
        before: BlockBuffers,
        dp: Array,
        normed: Array,
        rstd: Array,
        work: Array,
    ) -> None:
        """-c of a bracket, and -C H of the block before it, now that its C is known."""
        c = self.workspace.array("added", self.later_c.shape)
        share = np.full(len(dp), -1.0 / self.forward.config.embed_dim, dp.dtype)
        program.emit(np.multiply, dp, normed, work)
        program.emit(ops.weigh_channels, share, work, c)
        program.emit(np.multiply, c, rstd, c)
        program.emit(np.add, self.later_c, c, self.later_c)
        e_u = self.e[before.rows.stop - self.forward.config.rank : before.rows.stop]
        program.emit(np.multiply, before.h, self.later_c, e_u)

    def _emit_products(self, program: Program) -> None:
        """The product with the features, e z, and the small one with H."""
        sums, forward = self.sums, self.forward
        dright = self.workspace.array("dright_tile", sums.dright.shape)
        emit_product(program, self.e, forward.z, dright)
        program.emit(np.add, sums.dright, dright, sums.dright)
        if not forward.config.blocks:
            return
        mixed = self.workspace.array("mixed_tile", sums.mixed.shape)
        emit_product(program, self.e, forward.h.T, mixed)
        program.emit(np.add, sums.mixed, mixed, sums.mixed)


@ops.elementwise(passes=7)
def layer_norm_backward(g: Array, normed: Array, rstd: Array, mean: Array, work: Array) -> None:
    """g, gradient of `normed` (B, d), becomes the gradient of LayerNorm's input.

    dx = (g - mean(g) - normed mean(g normed)) rstd; mean (B, 1) and work (B, d) are work space.
    """
    np.multiply(g, normed, work)
    ops.mean_rows(work, mean)
    np.multiply(normed, mean, work)
    ops.mean_rows(g, mean)
    np.subtract(g, mean, g)
    np.subtract(g, work, g)
    np.multiply(g, rstd, g)
