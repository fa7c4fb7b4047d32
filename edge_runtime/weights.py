"""The adaptor's weights in the form the products want: fused, centred, scaled.

Rows of the fused weight, block by block: q (rank), k (rank), v (rank), u (rank). A q, k or v row
is a column of W with LayerNorm's gamma folded in; a u row is a row of U. Each row is centred, which
has the same effect on a product as centring every token of z (docs/adaptor.md, steps 1 and 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_runtime import ops
from edge_runtime.config import AdaptorConfig
from edge_runtime.products import emit_product
from edge_runtime.program import Program, Workspace

Array = np.ndarray[Any, Any]
Parameters = Mapping[str, Array]


class FusedWeights:
    """Derived from the parameters by `refresh`, once after each change of them.

    With L blocks, rank r, width d and C = 4rL - r:
    fused (4rL, d), whose first C rows multiply z; u (Lr, d), the u rows together;
    cross (Lr, 4rL) = u @ fused^T; bias (L, 3r) = beta W.
    Where every token has logits, the head is like one block more, of K rows and without attention:
    fused (4rL + K, d), all of which multiply z, cross (Lr, 4rL + K), head_bias (K,).
    """

    def __init__(self, config: AdaptorConfig, parameters: Parameters, workspace: Workspace):
        self.config = config
        self.parameters = parameters
        d, r, depth = config.embed_dim, config.rank, config.blocks
        rows = 4 * r * depth + config.head_rows
        self.query_scale = config.head_rank**-0.5 / ops.LOG_BASE if depth else 1.0
        self.fused = workspace.array("weights.fused", (rows, d))
        self.u = workspace.array("weights.u", (depth * r, d))
        self.cross = workspace.array("weights.cross", (depth * r, rows))
        self.bias = workspace.array("weights.bias", (depth, 3 * r))
        self.row_mean = workspace.array("weights.row_mean", (rows, 1))
        if config.dense:
            self.head_bias = workspace.array("weights.head_bias", (config.classes,))

        self._program = Program()
        self.emit_refresh(self._program)

    def refresh(self) -> None:
        """Recomputes everything from the parameters."""
        self._program.run()

    def emit_refresh(self, program: Program) -> None:
        """Appends what `refresh` does."""
        config, parameters = self.config, self.parameters
        if not len(self.fused):
            return
        program.section("weights: fuse, centre, scale")
        if config.dense:
            self._emit_head(program)
        if not config.blocks:
            program.emit(centre_rows, self.fused, self.row_mean)
            return
        r, qkv = config.rank, parameters["blocks.qkv"]
        for index in range(config.blocks):
            rows = self.fused[4 * r * index : 4 * r * (index + 1)]
            gamma = parameters["blocks.norm_weight"][index]
            program.emit(np.multiply, qkv[index], gamma, rows[: 3 * r])
            program.emit(np.multiply, rows[:r], self.query_scale, rows[:r])
            program.emit(np.copyto, rows[3 * r :], parameters["blocks.out"][index])
        program.emit(centre_rows, self.fused, self.row_mean)
        for index in range(config.blocks):
            u = self.fused[4 * r * index + 3 * r : 4 * r * (index + 1)]
            program.emit(np.copyto, self.u[r * index : r * (index + 1)], u)
        emit_product(program, self.u, self.fused.T, self.cross)
        beta = parameters["blocks.norm_bias"]
        program.emit(np.matmul, qkv, beta[:, :, None], self.bias[:, :, None])
        program.emit(np.multiply, self.bias[:, :r], self.query_scale, self.bias[:, :r])

    def _emit_head(self, program: Program) -> None:
        """The head's rows of `fused`, gamma folded in, and what it adds to every token."""
        parameters, weight = self.parameters, self.parameters["head.weight"]
        rows = self.fused[len(self.fused) - len(weight) :]
        program.emit(np.multiply, weight, parameters["head.norm_weight"], rows)
        program.emit(np.matmul, weight, parameters["head.norm_bias"], self.head_bias)
        program.emit(np.add, self.head_bias, parameters["head.bias"], self.head_bias)


@ops.elementwise(passes=2)
def centre_rows(rows: Array, mean: Array) -> None:
    """Subtracts from each row its mean; `mean` is work space, (rows, 1)."""
    ops.mean_rows(rows, mean)
    np.subtract(rows, mean, rows)
