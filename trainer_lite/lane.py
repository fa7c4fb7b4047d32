"""Tiles that run one after the other, in buffers of their own. Lanes run side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from edge_runtime import ops
from edge_runtime.config import AdaptorConfig
from edge_runtime.forward import ForwardPass
from edge_runtime.program import Program, Workspace
from edge_runtime.sources import FeatureSource
from edge_runtime.weights import FusedWeights
from trainer_lite.backward import BackwardPass
from trainer_lite.loss import cross_entropy_gradient
from trainer_lite.sums import HeadFactors, TokenOutcomes, TokenSums

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Batch:
    """Rows to read and their labels, (batch,) or (batch, patch tokens); drop-path factors (blocks,
    batch) or None; what the loss is the mean of: images, or tokens that have a label."""

    rows: Array
    labels: Array
    drop: Array | None
    counted: int


class LaneTile(Protocol):
    """The program for a tile of so many images; `set` names the images of its next run."""

    program: Program

    def set(self, batch: Batch, part: slice) -> None: ...


AnyTile = TypeVar("AnyTile", bound=LaneTile)


class TileLane(ABC, Generic[AnyTile]):
    """Runs tiles of a batch, which add up what they leave: `clear`, then any number of tiles."""

    def __init__(self, workspace: Workspace):
        self.workspace, self.clear = workspace, Program()
        self._tiles: dict[int, AnyTile] = {}

    @abstractmethod
    def make_tile(self, images: int) -> AnyTile:
        """A tile of so many images, in buffers that all tiles use."""

    def run(self, batch: Batch, parts: Sequence[slice]) -> None:
        """Clears the sums and runs a tile for each part of the batch, in order."""
        self.clear.run()
        for part in parts:
            tile = self.tile_of(part.stop - part.start)
            tile.set(batch, part)
            tile.program.run()

    def tile_of(self, images: int) -> AnyTile:
        """The program for a tile of so many images; the first one made sets the buffers' sizes."""
        if images not in self._tiles:
            self._tiles[images] = self.make_tile(images)
        return self._tiles[images]


class Lane(TileLane["Tile"]):
    """Runs tiles of one adaptor.

    Args:
        head: of the whole batch; lanes write to rows of their own. What it is of is trained.
        drop_path: whether batches come with drop-path factors.
    """

    def __init__(
        self,
        weights: FusedWeights,
        source: FeatureSource,
        workspace: Workspace,
        head: HeadFactors | TokenOutcomes,
        *,
        smoothing: float,
        drop_path: float,
    ):
        super().__init__(workspace)
        self.weights, self.source, self.head = weights, source, head
        self.smoothing, self.drop_path = smoothing, drop_path
        self.sums = TokenSums(head.config, workspace)
        self.sums.emit_clear(self.clear)

    def make_tile(self, images: int) -> Tile:
        return Tile(self, images)


class Reading:
    """Reads a tile of so many images: z (B, N, d), norms (B, N), drop-path factors if there are.

    Args:
        norms: buffer that they go to.
    """

    def __init__(
        self,
        config: AdaptorConfig,
        source: FeatureSource,
        workspace: Workspace,
        images: int,
        *,
        norms: str = "norms",
        drop_path: bool = False,
    ):
        self.source = source
        shape = (images, config.tokens)
        self.drop = workspace.array("drop", (config.blocks, images)) if drop_path else None
        self.z = workspace.array("z", (*shape, config.embed_dim))
        self.norms = workspace.array(norms, shape)
        self.scratch = workspace.array("scratch", (source.scratch_bytes(images),), np.uint8)

    def emit(self, program: Program) -> None:
        """Appends the reading of what `set` named."""
        given = () if self.drop is None else (self.drop,)
        program.section("input: read and decode")
        program.emit(self._read, uses=(self.z, self.norms, self.scratch, *given))

    def set(self, batch: Batch, part: slice) -> None:
        """What the next run reads."""
        self._batch, self._part = batch, part

    @ops.elementwise(passes=4)  # of float16, the usual codec
    def _read(self) -> None:
        batch, part = self._batch, self._part
        self.source.read(batch.rows[part], self.z, self.norms, self.scratch)
        if self.drop is not None:
            assert batch.drop is not None
            np.copyto(self.drop, batch.drop[:, part])


class Pass:
    """Forward, loss and backward of one adaptor over a tile, and what it leaves for the head."""

    def __init__(
        self,
        weights: FusedWeights,
        workspace: Workspace,
        images: int,
        sums: TokenSums,
        head: HeadFactors | TokenOutcomes,
        *,
        source: FeatureSource,
        smoothing: float,
        drop: Array | None,
    ):
        self.head, self.smoothing, self.source, self.workspace = head, smoothing, source, workspace
        keep = head.config.blocks > 0  # none where the head alone is trained
        self.forward = ForwardPass(weights, workspace, images, keep=keep, drop=drop)
        self.backward = BackwardPass(self.forward, workspace, sums)

    def set(self, batch: Batch, part: slice) -> None:
        """What the next run works on."""
        self._batch, self._part = batch, part

    def emit(self, program: Program) -> None:
        """Appends all of it."""
        self.forward.emit(program)
        self.emit_after_forward(program)

    def emit_after_forward(self, program: Program) -> None:
        """Appends all that follows from the logits."""
        forward, backward = self.forward, self.backward
        program.section("loss: cross-entropy")
        if isinstance(self.head, TokenOutcomes):
            from trainer_lite.token_loss import TokenLoss  # not in memory where it is not used

            self.token_loss = TokenLoss(forward, backward.dlogits, self.source, self.workspace)
            program.emit(self._token_loss, uses=(*self.token_loss.uses, *self.head.all))
            backward.emit(program)
            return
        program.emit(self._loss, uses=(forward.logits, backward.dlogits))
        backward.emit(program)
        program.section("gradients: keep the head's factors")
        made = (forward.logits, backward.dlogits, forward.normed_pool, backward.stream_gradient)
        program.emit(self._collect, uses=(*made, forward.pooled_h, *self.head.all))

    @ops.elementwise(passes=6)
    def _loss(self) -> None:
        labels, smoothing, images = self._batch.labels, self.smoothing, self._batch.counted
        logits, dlogits = self.forward.logits, self.backward.dlogits
        cross_entropy_gradient(logits, labels[self._part], smoothing, images, dlogits)

    @ops.elementwise(passes=8)
    def _token_loss(self) -> None:
        batch, part, found = self._batch, self._part, self.head
        assert isinstance(found, TokenOutcomes)
        self.token_loss.run(
            batch.rows[part],
            batch.labels[part],
            self.smoothing,
            batch.counted,
            found.loss[part],
            found.correct[part],
        )

    @ops.elementwise(passes=1)
    def _collect(self) -> None:
        """Keeps what the head's gradients are made of: their products are taken once a batch."""
        head, forward, backward, part = self.head, self.forward, self.backward, self._part
        assert isinstance(head, HeadFactors)
        head.logits[part] = forward.logits
        head.dlogits[part] = backward.dlogits
        head.normed[part] = forward.normed_pool
        head.g[part] = backward.stream_gradient
        pools = head.pools
        pooled_h = forward.pooled_h[: len(head.pooled_h)]  # none of a head alone
        head.pooled_h[:, part.start * pools : part.stop * pools] = pooled_h


class Tile:
    """The program for a tile of so many images: read, forward, loss, backward, collect."""

    def __init__(self, lane: Lane, images: int):
        config, workspace = lane.weights.config, lane.workspace
        self.reading = Reading(
            config, lane.source, workspace, images, drop_path=bool(lane.drop_path)
        )
        drop = self.reading.drop
        self.work = Pass(
            lane.weights,
            workspace,
            images,
            lane.sums,
            lane.head,
            source=lane.source,
            smoothing=lane.smoothing,
            drop=drop,
        )
        self.program = Program()
        self.reading.emit(self.program)
        self.work.emit(self.program)

    def set(self, batch: Batch, part: slice) -> None:
        """What the next run works on."""
        self.reading.set(batch, part)
        self.work.set(batch, part)
