"""What the tiles of a batch leave behind for its gradient.

`config` is the shape of what is trained, as `parameters.trained_part` gives it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime import ops
from edge_runtime.config import AdaptorConfig
from edge_runtime.program import Program, Workspace

Array = np.ndarray[Any, Any]


class TokenSums:
    """Sums over tokens, to which tiles add.

    dright (C, d): e z. mixed (C, Lr): e H^T. dbias (L, 3r): sum of dY. Where every token has
    logits also dhead_bias (K,): sum of their gradients.
    """

    def __init__(self, config: AdaptorConfig, workspace: Workspace):
        self.config = config
        d, r, depth, c = config.embed_dim, config.rank, config.blocks, config.product_rows
        self.dright = workspace.array("sums.dright", (c, d))
        self.mixed = workspace.array("sums.mixed", (c, depth * r))
        self.dbias = workspace.array("sums.dbias", (depth, 3 * r))
        self.all: tuple[Array, ...] = (self.dright, self.mixed, self.dbias)
        if config.dense:
            self.dhead_bias = workspace.array("sums.dhead_bias", (config.classes,))
            self.all += (self.dhead_bias,)

    def emit_clear(self, program: Program) -> None:
        """Starts anew."""
        program.section("gradients: clear the sums")
        for total in self.all:
            program.emit(ops.fill, total, 0.0)

    def emit_add(self, program: Program, other: TokenSums) -> None:
        """Adds the sums of other tiles."""
        program.section("gradients: add the lanes' sums")
        for total, part in zip(self.all, other.all):
            program.emit(np.add, total, part, total)


class HeadFactors:
    """Image by image, what the head's gradients are products of.

    With P pooled vectors an image: logits, dlogits (batch, K), normed, g (batch, P d), and pooled_h
    (Lr, batch P).
    """

    def __init__(self, config: AdaptorConfig, workspace: Workspace, batch: int):
        self.config, self.pools = config, len(config.pools)
        d, lr = config.head_dim, config.blocks * config.rank
        self.logits = workspace.array("head.logits", (batch, config.classes))
        self.dlogits = workspace.array("head.dlogits", (batch, config.classes))
        self.normed = workspace.array("head.batch_normed", (batch, d))
        self.g = workspace.array("head.batch_g", (batch, d))
        self.pooled_h = workspace.array("head.batch_pooled_h", (lr, batch * self.pools))

    @property
    def all(self) -> tuple[Array, ...]:
        return self.logits, self.dlogits, self.normed, self.g, self.pooled_h

    def emit_clear(self, program: Program) -> None:
        """Zeroes the rows that a smaller batch leaves out, and all others."""
        program.section("gradients: clear the sums")
        for factor in self.all:
            program.emit(ops.fill, factor, 0.0)


class TokenOutcomes:
    """Image by image, where every token has logits: summed loss and tokens classified rightly.

    Both (batch,). There are no factors: the head's gradient comes from the sums over tokens.
    """

    def __init__(self, config: AdaptorConfig, workspace: Workspace, batch: int):
        self.config = config
        self.loss = workspace.array("head.loss", (batch,))
        self.correct = workspace.array("head.correct", (batch,), np.int32)

    @property
    def all(self) -> tuple[Array, ...]:
        return self.loss, self.correct

    def emit_clear(self, program: Program) -> None:
        """So that they hold what tiles leave there until the last one has run."""
        program.section("gradients: clear the sums")
        for outcome in self.all:
            program.emit(ops.fill, outcome, 0)
