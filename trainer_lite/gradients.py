"""From the sums over a batch's tokens to the gradient of every parameter, once a step.

Nothing here grows with tokens; the work is on rank x width matrices. Derivation: docs/adaptor.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime import ops
from edge_runtime.products import emit_product
from edge_runtime.program import Program, Workspace
from edge_runtime.weights import FusedWeights, centre_rows
from trainer_lite.parameters import views
from trainer_lite.sums import HeadFactors, TokenOutcomes, TokenSums

Array = np.ndarray[Any, Any]


class GradientAssembly:
    """The gradient of every parameter that is trained, from the sums of a batch: flat, and by
    name."""

    def __init__(
        self,
        weights: FusedWeights,
        sums: TokenSums,
        head: HeadFactors | TokenOutcomes,
        workspace: Workspace,
    ):
        config = self.config = head.config  # of what is trained
        self.weights, self.sums, self.head = weights, sums, head
        self.flat = workspace.array("gradient", (config.parameter_count(),))
        self.gradients = views(config, self.flat)
        d, r, depth, c = config.embed_dim, config.rank, config.blocks, config.product_rows
        self.dfused = workspace.array("dfused", weights.fused.shape)
        self.du = workspace.array("du", (depth * r, d))
        self.row_mean = workspace.array("dfused_mean", weights.row_mean.shape)
        self.masked = workspace.array("mixed_masked", (c, depth * r))

    def emit(self, program: Program) -> None:
        """Appends the whole assembly."""
        program.section("gradients: from sums to parameters")
        if isinstance(self.head, HeadFactors):
            self._emit_head(program, self.head)
        if self.config.product_rows:
            self._emit_fused(program)
            for index in range(self.config.blocks):
                self._emit_block(program, index)
        if self.config.dense:
            self._emit_token_head(program)

    def _emit_head(self, program: Program, head: HeadFactors) -> None:
        """Of gamma the sum over classes of dlogits^T normed * weight, of beta (sum dlogits)
        weight, and of the linear layer dlogits^T (normed gamma + beta)."""
        gradients, parameters = self.gradients, self.weights.parameters
        dw, db, weight = gradients["head.weight"], gradients["head.bias"], parameters["head.weight"]
        emit_product(program, head.dlogits.T, head.normed, dw)
        program.emit(ops.sum_channels, head.dlogits, db)
        program.emit(ops.sum_channel_products, dw, weight, gradients["head.norm_weight"])
        program.emit(np.matmul, db, weight, gradients["head.norm_bias"])
        program.emit(np.multiply, head.normed, parameters["head.norm_weight"], head.normed)
        program.emit(np.add, head.normed, parameters["head.norm_bias"], head.normed)
        emit_product(program, head.dlogits.T, head.normed, dw)

    def _emit_fused(self, program: Program) -> None:
        """Gradient of the fused rows: from z, from the blocks before, and from the head."""
        config, weights, sums = self.weights.config, self.weights, self.sums
        r, c = config.rank, config.product_rows
        upper, dright = self.dfused[:c], sums.dright
        program.emit(np.multiply, dright, 1.0 / config.input_rms, dright)
        program.emit(ops.fill, self.dfused, 0.0)
        if config.blocks:
            program.emit(np.copyto, self.masked, sums.mixed)
            self._emit_mask(program, 3 * r)
            emit_product(program, self.masked.T, weights.fused[:c], self.du)
            self._emit_mask(program, 4 * r)
            emit_product(program, self.masked, weights.u, upper)
            self._emit_add_du(program)
        program.emit(np.add, upper, dright, upper)
        if config.blocks and isinstance(self.head, HeadFactors):
            g = self.head.g.reshape(-1, config.embed_dim)
            emit_product(program, self.head.pooled_h, g, self.du)
            self._emit_add_du(program)
        program.emit(centre_rows, self.dfused, self.row_mean)

    def _emit_add_du(self, program: Program) -> None:
        """Adds du to the u rows of dfused."""
        r = self.weights.config.rank
        for index in range(self.weights.config.blocks):
            rows = self.dfused[4 * r * index + 3 * r : 4 * r * (index + 1)]
            program.emit(np.add, rows, self.du[r * index : r * (index + 1)], rows)

    def _emit_mask(self, program: Program, skip: int) -> None:
        """Zeroes in e H^T what does not count: for H_j the rows before block j, and `skip` more.

        In the gradient of U_j its own u rows count (skip 3r); in that of the fused rows only
        those of later blocks do (skip 4r).
        """
        r = self.weights.config.rank
        for index in range(self.weights.config.blocks):
            columns = slice(r * index, r * (index + 1))
            program.emit(ops.fill, self.masked[: 4 * r * index + skip, columns], 0.0)

    def _emit_block(self, program: Program, index: int) -> None:
        """dU, and from d(gamma W) and d(beta W): dW, dgamma, dbeta."""
        config, parameters = self.weights.config, self.weights.parameters
        r, gradients, scale = config.rank, self.gradients, self.weights.query_scale
        rows = self.dfused[4 * r * index : 4 * r * (index + 1)]
        dqkv, dout = rows[: 3 * r], rows[3 * r :]
        dw, qkv = gradients["blocks.qkv"][index], parameters["blocks.qkv"][index]
        dbias = self.sums.dbias[index]
        program.emit(np.copyto, gradients["blocks.out"][index], dout)
        program.emit(np.multiply, rows[:r], scale, rows[:r])
        program.emit(np.multiply, dbias[:r], scale, dbias[:r])
        program.emit(np.multiply, qkv, dqkv, dw)
        program.emit(ops.sum_channels, dw, gradients["blocks.norm_weight"][index])
        program.emit(np.matmul, dbias, qkv, gradients["blocks.norm_bias"][index])
        program.emit(np.multiply, dqkv, parameters["blocks.norm_weight"][index], dw)
        program.emit(np.multiply, dbias[:, None], parameters["blocks.norm_bias"][index], dqkv)
        program.emit(np.add, dw, dqkv, dw)

    def _emit_token_head(self, program: Program) -> None:
        """As a block's: from d(gamma W) and d(beta W) of the head's rows."""
        gradients, parameters = self.gradients, self.weights.parameters
        dw, db, weight = gradients["head.weight"], gradients["head.bias"], parameters["head.weight"]
        rows = self.dfused[len(self.dfused) - len(weight) :]
        program.emit(np.copyto, db, self.sums.dhead_bias)
        program.emit(ops.sum_channel_products, weight, rows, gradients["head.norm_weight"])
        program.emit(np.matmul, db, weight, gradients["head.norm_bias"])
        program.emit(np.multiply, rows, parameters["head.norm_weight"], dw)
        program.emit(np.multiply, db[:, None], parameters["head.norm_bias"], rows)
        program.emit(np.add, dw, rows, dw)
