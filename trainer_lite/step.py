"""One training step: tiles forward and backward, then the gradient of every parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from edge_runtime.config import AdaptorConfig
from edge_runtime.forward import ForwardPass
from edge_runtime.program import Program, Workspace
from edge_runtime.weights import FusedWeights
from trainer_lite.backward import BackwardPass
from trainer_lite.gradients import BatchSums, GradientAssembly
from trainer_lite.loss import cross_entropy

Array = np.ndarray[Any, Any]


class ReadRows(Protocol):
    """Fills z (rows, tokens, dim) and norms (rows, tokens) with the decoded features of `rows`."""

    def __call__(self, rows: Array, z: Array, norms: Array) -> None: ...


class Tile:
    """Programs and buffers for a tile of so many images."""

    def __init__(
        self, weights: FusedWeights, sums: BatchSums, workspace: Workspace, images: int, drop: bool
    ):
        config = weights.config
        factors = workspace.array("drop", (config.blocks, images)) if drop else None
        self.drop = factors
        self.forward = ForwardPass(weights, workspace, images, keep=True, drop=factors)
        self.backward = BackwardPass(self.forward, workspace, sums)
        self.forward_program, self.backward_program = Program(), Program()
        self.forward.emit(self.forward_program)
        self.backward.emit(self.backward_program)
        shape = (images, config.tokens)
        self.z = self.forward.z.reshape(*shape, config.embed_dim)
        self.norms = self.forward.norms.reshape(shape)


class TrainingStep:
    """Loss and exact gradient of one batch, in tiles of `tile` images.

    `parameters` and `gradients` map names to arrays of the same shapes (AdaptorConfig says which);
    `run` overwrites the gradients.
    """

    def __init__(
        self,
        config: AdaptorConfig,
        parameters: Mapping[str, Array],
        gradients: Mapping[str, Array],
        *,
        batch: int,
        tile: int,
        smoothing: float = 0.0,
        drop_path: float = 0.0,
        workspace: Workspace | None = None,
    ):
        self.workspace = workspace or Workspace(parameters["head.weight"].dtype)
        self.tile, self.smoothing, self.drop_path = min(tile, batch), smoothing, drop_path
        self.weights = FusedWeights(config, parameters, self.workspace)
        self.sums = BatchSums(config, self.workspace, batch)
        self.assembly = GradientAssembly(self.weights, self.sums, gradients, self.workspace)
        self._tiles: dict[int, Tile] = {}
        self._tile_of(self.tile)  # the largest first: it sets how large the buffers are

    def run(
        self, read: ReadRows, rows: Array, labels: Array, drop: Array | None = None
    ) -> tuple[float, int]:
        """One batch: (summed loss, images classified rightly).

        Args:
            rows: (batch,) indices to read. labels: (batch,) class indices.
            drop: drop-path factors (blocks, batch); needed if and only if drop_path > 0.
        """
        self.weights.refresh()
        self.sums.clear()
        loss, correct, batch = 0.0, 0, len(rows)
        for start in range(0, batch, self.tile):
            part = slice(start, min(start + self.tile, batch))
            tile = self._tile_of(part.stop - part.start)
            read(rows[part], tile.z, tile.norms)
            if tile.drop is not None and drop is not None:
                np.copyto(tile.drop, drop[:, part])
            tile.forward_program.run()
            forward, backward = tile.forward, tile.backward
            dlogits = backward.dlogits
            loss += cross_entropy(forward.logits, labels[part], self.smoothing, batch, dlogits)
            correct += int((forward.logits.argmax(axis=1) == labels[part]).sum())
            tile.backward_program.run()
            self._collect(part, tile)
        self.assembly.run(batch)
        return loss, correct

    def _collect(self, part: slice, tile: Tile) -> None:
        """Keeps the head's factors of a tile: their products are taken once, for the batch."""
        sums, forward, backward = self.sums, tile.forward, tile.backward
        sums.dlogits[part] = backward.dlogits
        sums.head_input[part] = forward.head_input
        sums.g[part] = backward.stream_gradient
        sums.pooled_h[:, part] = forward.pooled_h
        np.add(sums.dnorm_bias, np.add.reduce(backward.dhead_input, 0), sums.dnorm_bias)
        backward.dhead_input *= forward.normed_pool
        np.add(sums.dnorm_weight, np.add.reduce(backward.dhead_input, 0), sums.dnorm_weight)

    def _tile_of(self, images: int) -> Tile:
        if images not in self._tiles:
            self._tiles[images] = Tile(
                self.weights, self.sums, self.workspace, images, self.drop_path > 0
            )
        return self._tiles[images]
