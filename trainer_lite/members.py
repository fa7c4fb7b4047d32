"""Several adaptors that train side by side: members, which share what touches the features.

A tile is read once, and one product with the weights of all, stacked, gives every member its x.
Then member by member all the rest runs, forward and backward, in buffers that the next one uses
again. The backward product stays each member's own: its e is in the cache as it is made, and one
product of all, which was tried, gains less than it loses by fetching every e again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_runtime.config import AdaptorConfig
from edge_runtime.forward import ForwardPass
from edge_runtime.products import emit_product
from edge_runtime.program import Array, Program, Workspace
from edge_runtime.weights import FusedWeights, Parameters

READ_NORMS = "read.norms"  # as read, for all members; each makes its stream's of them


class Members:
    """The fused weights of several adaptors, the largest rank first.

    `right` (R, d) are the rows of all that multiply z, over input_rms; `rows` are each one's part.

    Args:
        workspace: where the weights lie.

    Raises:
        ValueError: no adaptor, or ranks that grow.
    """

    def __init__(
        self,
        configs: Sequence[AdaptorConfig],
        parameters: Sequence[Parameters],
        workspace: Workspace,
    ):
        ranks = [config.rank for config in configs]
        if not ranks or ranks != sorted(ranks, reverse=True):
            raise ValueError(f"members come by rank, the largest first, not {ranks}")
        self.config = configs[0]  # all but the rank is everyone's
        self.weights = [
            FusedWeights(config, values, Named(workspace, f"{index}."))
            for index, (config, values) in enumerate(zip(configs, parameters))
        ]
        ends = np.cumsum([config.product_rows for config in configs]).tolist()
        self.rows = [slice(e - c.product_rows, e) for c, e in zip(configs, ends)]
        self.right = workspace.array("right", (ends[-1], self.config.embed_dim))
        self._program = Program()
        self.emit_refresh(self._program)

    def __len__(self) -> int:
        return len(self.weights)

    def refresh(self) -> None:
        """Recomputes everything from the parameters."""
        self._program.run()

    def emit_refresh(self, program: Program) -> None:
        """Appends what `refresh` does."""
        for weights, rows in zip(self.weights, self.rows):
            weights.emit_refresh(program)
            fused = weights.fused[: weights.config.product_rows]
            program.emit(np.multiply, fused, 1.0 / weights.config.input_rms, self.right[rows])


class Shared:
    """What the members' forward passes over one tile share: x of all, norms as read, pooled z."""

    def __init__(self, members: Members, workspace: Workspace, images: int):
        config = members.config
        t, rows = images * config.tokens, len(members.right)
        self.members = members
        self.x = workspace.array("wide_x", (rows, t))
        self.norms = workspace.array(READ_NORMS, (t,))
        pooled = (images * len(config.pools), config.embed_dim)
        self.pooled_z = workspace.array("pooled_z", pooled)
        self.spaces = [Named(workspace, given={"x": self.x[rows]}) for rows in members.rows]

    def emit(self, program: Program, first: ForwardPass) -> None:
        """Appends what is done once for all; `first` is any member's."""
        program.section("forward: head")
        first.emit_pool(program, self.pooled_z)
        if self.members.config.blocks:
            program.section("forward: product with the features")
            emit_product(program, self.members.right, first.z.T, self.x)

    def emit_forward(self, program: Program, forward: ForwardPass) -> None:
        """Appends a member's own part."""
        if forward.config.blocks:
            program.section("forward: product with the features")
            forward.emit_norms(program, self.norms)
        forward.emit_after_product(program, self.pooled_z)


class Named(Workspace):
    """Another workspace's buffers, with a prefix to their names, but for some that are given."""

    def __init__(
        self, other: Workspace, prefix: str = "", given: Mapping[str, Array] | None = None
    ):
        super().__init__(other.dtype)
        self._other, self._prefix, self._given = other, prefix, given or {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> Array:
        if name in self._given:
            return self._given[name].reshape(shape)
        return self._other.array(self._prefix + name, shape, dtype)
