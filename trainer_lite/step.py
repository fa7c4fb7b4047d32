"""One training step: tiles forward and backward, then the gradient of every parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime.config import IGNORED, AdaptorConfig
from edge_runtime.program import Program, Workspace
from edge_runtime.sources import FeatureSource
from edge_runtime.weights import FusedWeights
from trainer_lite.gradients import GradientAssembly
from trainer_lite.lane import Batch, Lane
from trainer_lite.loss import cross_entropy
from trainer_lite.parameters import trained_part
from trainer_lite.sums import HeadFactors, TokenOutcomes
from trainer_lite.threads import side_by_side

Array = np.ndarray[Any, Any]


class TrainingStep:
    """Loss and exact gradient of one batch, in tiles of `tile` images.

    Programs `before` and `after` run once a batch, in between each lane runs its tiles. All that a
    step works in comes from `workspace`, and for further lanes from `others`; the fused weights,
    which prediction uses too, from the workspace that `weights` was made with.

    `gradient` is the gradient of a run, flat as ParameterSet.flat of what is trained, and
    `gradients` views of it by name; both hold until the next run of anything in the same arena.

    Args:
        batch: images of the largest batch.
        head_only: take the gradient of the head alone: no backward pass through the blocks, and
            nothing is kept for one.
        others: workspaces of lanes that run beside the first, each in a thread. Tiles go round the
            lanes and their sums are added in order, so the same lanes give the same bits.
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
        head_only: bool = False,
        others: Sequence[Workspace] = (),
    ):
        trained = trained_part(weights.config, head_only=head_only)
        self.weights, self.source, self.workspace = weights, source, workspace
        self.tile_images, self.smoothing, self.drop_path = min(tile, batch), smoothing, drop_path
        self.head = (
            TokenOutcomes(trained, workspace, batch)
            if trained.dense
            else HeadFactors(trained, workspace, batch)
        )
        self.before, self.after = Program(), Program()
        weights.emit_refresh(self.before)
        self.head.emit_clear(self.before)
        self.lanes = [
            Lane(weights, source, space, self.head, smoothing=smoothing, drop_path=drop_path)
            for space in (workspace, *others)
        ]
        for lane in self.lanes:
            lane.tile_of(self.tile_images)  # the largest first: it sets the sizes
        first, *rest = (lane.sums for lane in self.lanes)
        for sums in rest:
            first.emit_add(self.after, sums)
        assembly = GradientAssembly(weights, first, self.head, workspace)
        assembly.emit(self.after)
        self.gradient, self.gradients = assembly.flat, assembly.gradients

    @property
    def config(self) -> AdaptorConfig:
        return self.weights.config

    def programs(self, lane: int = 0) -> tuple[Program, Program, Program, Program]:
        """In the order in which they run: before, a lane's clear and tile, after."""
        chosen = self.lanes[lane]
        tile = chosen.tile_of(self.tile_images).program
        return self.before, chosen.clear, tile, self.after

    def run(self, rows: Array, labels: Array, drop: Array | None = None) -> tuple[float, int]:
        """One batch: (summed loss, how many were classified rightly), of its images, or of the
        tokens that have a label: as many as `counted(labels)` says.

        Args:
            rows: (batch,) indices to read. labels: (batch,) class indices, or (batch, patch tokens)
                where every token has logits.
            drop: drop-path factors (blocks, batch); needed if and only if drop_path > 0.
        """
        self.before.run()
        batch = Batch(rows, labels, drop, counted(labels))
        parts = tiles(len(rows), self.tile_images)
        count = len(self.lanes)
        side_by_side([(lane.run, batch, parts[i::count]) for i, lane in enumerate(self.lanes)])
        outcome = self.outcome(labels)  # before the logits' place is used again
        self.after.run()
        return outcome

    def outcome(self, labels: Array) -> tuple[float, int]:
        """(summed loss, how many are classified rightly) of the batch whose tiles have run."""
        return outcome_of(self.head, labels, self.smoothing)


def outcome_of(
    head: HeadFactors | TokenOutcomes, labels: Array, smoothing: float
) -> tuple[float, int]:
    """(summed loss, images or tokens classified rightly) of a batch, by what its tiles left."""
    if isinstance(head, TokenOutcomes):
        loss, right = (array[: len(labels)].sum() for array in head.all)
        return float(loss), int(right)
    logits = head.logits[: len(labels)]
    correct = int((logits.argmax(axis=1) == labels).sum())
    return cross_entropy(logits, labels, smoothing), correct


def counted(labels: Array) -> int:
    """What a batch's loss is the mean of: its images, or its labelled tokens (images, patches)."""
    return len(labels) if labels.ndim == 1 else int(np.count_nonzero(labels != IGNORED))


def tiles(images: int, tile: int) -> list[slice]:
    """The parts that so many images are cut into."""
    return [slice(start, min(start + tile, images)) for start in range(0, images, tile)]
