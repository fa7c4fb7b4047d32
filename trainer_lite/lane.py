"""Tiles that run one after the other, in buffers of their own. Lanes run side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime import ops
from edge_runtime.forward import ForwardPass
from edge_runtime.program import Program, Workspace
from edge_runtime.sources import FeatureSource
from edge_runtime.weights import FusedWeights
from trainer_lite.backward import BackwardPass
from trainer_lite.loss import cross_entropy_gradient
from trainer_lite.sums import HeadFactors, TokenSums

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Batch:
    """Rows to read and their labels, (batch,); drop-path factors (blocks, batch) or None."""

    rows: Array
    labels: Array
    drop: Array | None


class Lane:
    """Runs tiles of a batch and adds up what they leave: `clear`, then any number of tiles.

    Args:
        head: of the whole batch; lanes write to rows of their own. What it is of is trained.
        drop_path: whether batches come with drop-path factors.
    """

    def __init__(
        self,
        weights: FusedWeights,
        source: FeatureSource,
        workspace: Workspace,
        head: HeadFactors,
        *,
        smoothing: float,
        drop_path: float,
    ):
        self.weights, self.source, self.workspace, self.head = weights, source, workspace, head
        self.smoothing, self.drop_path = smoothing, drop_path
        self.sums = TokenSums(head.config, workspace)
        self.clear = Program()
        self.sums.emit_clear(self.clear)
        self._tiles: dict[int, Tile] = {}

    def run(self, batch: Batch, parts: Sequence[slice]) -> None:
        """Clears the sums and runs a tile for each part of the batch, in order."""
        self.clear.run()
        for part in parts:
            tile = self.tile_of(part.stop - part.start)
            tile.set(batch, part)
            tile.program.run()

    def tile_of(self, images: int) -> Tile:
        """The program for a tile of so many images; the first one made sets the buffers' sizes."""
        if images not in self._tiles:
            self._tiles[images] = Tile(self, images)
        return self._tiles[images]


class Tile:
    """The program for a tile of so many images: read, forward, loss, backward, collect."""

    def __init__(self, lane: Lane, images: int):
        self.lane = lane
        config, workspace = lane.weights.config, lane.workspace
        self.drop = workspace.array("drop", (config.blocks, images)) if lane.drop_path else None
        keep = lane.head.config.blocks > 0
        self.forward = ForwardPass(lane.weights, workspace, images, keep=keep, drop=self.drop)
        self.backward = BackwardPass(self.forward, workspace, lane.sums)
        scratch = lane.source.scratch_bytes(images)
        self.scratch = workspace.array("scratch", (scratch,), np.uint8)
        shape = (images, config.tokens)
        self.z = self.forward.z.reshape(*shape, config.embed_dim)
        self.norms = self.forward.norms.reshape(shape)
        self.program = Program()
        given = () if self.drop is None else (self.drop,)
        self.program.section("input: read and decode")
        self.program.emit(self._read, uses=(self.z, self.norms, self.scratch, *given))
        self.forward.emit(self.program)
        forward, backward = self.forward, self.backward
        self.program.section("loss: cross-entropy")
        self.program.emit(self._loss, uses=(forward.logits, backward.dlogits))
        backward.emit(self.program)
        self.program.section("gradients: keep the head's factors")
        made = (forward.logits, backward.dlogits, forward.normed_pool, backward.stream_gradient)
        self.program.emit(self._collect, uses=(*made, forward.pooled_h, *lane.head.all))

    def set(self, batch: Batch, part: slice) -> None:
        """What the next run works on."""
        self._batch, self._part = batch, part

    @ops.elementwise(passes=4)  # of float16, the usual codec
    def _read(self) -> None:
        batch, part = self._batch, self._part
        self.lane.source.read(batch.rows[part], self.z, self.norms, self.scratch)
        if self.drop is not None:
            assert batch.drop is not None
            np.copyto(self.drop, batch.drop[:, part])

    @ops.elementwise(passes=6)
    def _loss(self) -> None:
        labels, smoothing, images = self._batch.labels, self.lane.smoothing, len(self._batch.rows)
        logits, dlogits = self.forward.logits, self.backward.dlogits
        cross_entropy_gradient(logits, labels[self._part], smoothing, images, dlogits)

    @ops.elementwise(passes=1)
    def _collect(self) -> None:
        """Keeps what the head's gradients are made of: their products are taken once a batch."""
        head, forward, backward, part = self.lane.head, self.forward, self.backward, self._part
        head.logits[part] = forward.logits
        head.dlogits[part] = backward.dlogits
        head.normed[part] = forward.normed_pool
        head.g[part] = backward.stream_gradient
        pools = len(head.config.pools)
        pooled_h = forward.pooled_h[: len(head.pooled_h)]  # none of a head alone
        head.pooled_h[:, part.start * pools : part.stop * pools] = pooled_h
