"""One training step: tiles forward and backward, then the gradient of every parameter."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime import ops
from edge_runtime.config import AdaptorConfig
from edge_runtime.forward import ForwardPass
from edge_runtime.program import Program, Workspace
from edge_runtime.sources import FeatureSource
from edge_runtime.weights import FusedWeights
from trainer_lite.backward import BackwardPass
from trainer_lite.gradients import BatchSums, GradientAssembly
from trainer_lite.loss import cross_entropy, cross_entropy_gradient

Array = np.ndarray[Any, Any]


class TrainingStep:
    """Loss and exact gradient of one batch, in tiles of `tile` images.

    Three programs: `before` and `after` run once a batch, `tile` once a tile. All that a step
    works in comes from `workspace`; the fused weights, which prediction uses too, from the one
    that `weights` was made with.

    `gradient` is the gradient of a run, flat as ParameterSet.flat, and `gradients` views of it by
    name; both hold until the next run of anything in the same arena.

    Args:
        batch: images of the largest batch.
    """

    def __init__(
        self,
        weights: FusedWeights,
        source: FeatureSource,
        workspace: Workspace,
        *,
        batch: int,
        tile: int,
        smoothing: float = 0.0,
        drop_path: float = 0.0,
    ):
        self.weights, self.source, self.workspace = weights, source, workspace
        self.tile_images, self.smoothing, self.drop_path = min(tile, batch), smoothing, drop_path
        self.sums = BatchSums(weights.config, workspace, batch)
        self.before, self.after = Program(), Program()
        weights.emit_refresh(self.before)
        self.sums.emit_clear(self.before)
        self._tiles: dict[int, Tile] = {}
        self.tile = self.tile_of(self.tile_images).program  # the largest first: it sets the sizes
        assembly = GradientAssembly(weights, self.sums, workspace)
        assembly.emit(self.after)
        self.gradient, self.gradients = assembly.flat, assembly.gradients

    @property
    def config(self) -> AdaptorConfig:
        return self.weights.config

    def run(self, rows: Array, labels: Array, drop: Array | None = None) -> tuple[float, int]:
        """One batch: (summed loss, images classified rightly).

        Args:
            rows: (batch,) indices to read. labels: (batch,) class indices.
            drop: drop-path factors (blocks, batch); needed if and only if drop_path > 0.
        """
        self.before.run()
        batch = len(rows)
        for start in range(0, batch, self.tile_images):
            part = slice(start, min(start + self.tile_images, batch))
            tile = self.tile_of(part.stop - start)
            tile.set(part, rows[part], labels[part], None if drop is None else drop[:, part], batch)
            tile.program.run()
        outcome = self.outcome(labels)  # before the logits' place is used again
        self.after.run()
        return outcome

    def outcome(self, labels: Array) -> tuple[float, int]:
        """(summed loss, images classified rightly) of the batch whose tiles have run."""
        logits = self.sums.logits[: len(labels)]
        correct = int((logits.argmax(axis=1) == labels).sum())
        return cross_entropy(logits, labels, self.smoothing), correct

    def tile_of(self, images: int) -> Tile:
        if images not in self._tiles:
            self._tiles[images] = Tile(self, images)
        return self._tiles[images]


class Tile:
    """The program for a tile of so many images: read, forward, loss, backward, collect."""

    def __init__(self, step: TrainingStep, images: int):
        self.step = step
        config, workspace = step.config, step.workspace
        self.drop = workspace.array("drop", (config.blocks, images)) if step.drop_path else None
        self.forward = ForwardPass(step.weights, workspace, images, keep=True, drop=self.drop)
        self.backward = BackwardPass(self.forward, workspace, step.sums)
        scratch = step.source.scratch_bytes(images)
        self.scratch = workspace.array("scratch", (scratch,), np.uint8)
        shape = (images, config.tokens)
        self.z = self.forward.z.reshape(*shape, config.embed_dim)
        self.norms = self.forward.norms.reshape(shape)
        self.program = Program()
        given = () if self.drop is None else (self.drop,)
        self.program.section("input: read and decode")
        self.program.emit(self._read, uses=(self.z, self.norms, self.scratch, *given))
        self.forward.emit(self.program)
        backward, sums = self.backward, step.sums
        self.program.section("loss: cross-entropy")
        self.program.emit(self._loss, uses=(self.forward.logits, backward.dlogits))
        self.backward.emit(self.program)
        kept = (backward.dlogits, backward.stream_gradient)
        head = (self.forward.logits, self.forward.normed_pool, self.forward.pooled_h)
        self.program.emit(self._collect, uses=(*kept, *head, *sums.head))

    def set(self, part: slice, rows: Array, labels: Array, drop: Array | None, batch: int) -> None:
        """What the next run works on: `part` of a batch of `batch` images."""
        self._part, self._rows, self._labels, self._batch = part, rows, labels, batch
        self._given_drop = drop

    @ops.elementwise(passes=4)  # of float16, the usual codec
    def _read(self) -> None:
        self.step.source.read(self._rows, self.z, self.norms, self.scratch)
        if self.drop is not None:
            np.copyto(self.drop, self._given_drop)  # type: ignore[arg-type]

    @ops.elementwise(passes=6)
    def _loss(self) -> None:
        smoothing, dlogits = self.step.smoothing, self.backward.dlogits
        cross_entropy_gradient(self.forward.logits, self._labels, smoothing, self._batch, dlogits)

    @ops.elementwise(passes=1)
    def _collect(self) -> None:
        """Keeps what the head's gradients are made of: their products are taken once a batch."""
        sums, forward, backward, part = self.step.sums, self.forward, self.backward, self._part
        sums.logits[part] = forward.logits
        sums.dlogits[part] = backward.dlogits
        sums.normed[part] = forward.normed_pool
        sums.g[part] = backward.stream_gradient
        sums.pooled_h[:, part] = forward.pooled_h
