"""Evaluates several members at once: each tile is read once, for one wide product."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edge_runtime import ops
from edge_runtime.forward import ForwardPass
from edge_runtime.metrics import Evaluation, evaluation_of
from edge_runtime.program import Array, Program, Workspace
from edge_runtime.sources import FeatureSource
from trainer_lite.evaluation import cut
from trainer_lite.members import READ_NORMS, Members, Shared
from trainer_lite.threads import side_by_side

NOT_FINITE = -1  # in place of a class


class MembersPredictor:
    """Buffers and programs of one lane; the members' weights must have been refreshed.

    Args:
        scratch_bytes: work space that reading a tile of any source takes.
    """

    def __init__(self, members: Members, workspace: Workspace, tile: int, scratch_bytes: int):
        self.members, self.workspace, self.tile_images = members, workspace, tile
        self._scratch = workspace.array("scratch", (scratch_bytes,), np.uint8)
        self._tiles: dict[int, PredictionTile] = {}
        self.tile = self._tile_of(tile).program

    def predict(self, source: FeatureSource) -> Array:
        """Most probable class of every row, (members, rows); NOT_FINITE where a logit is not."""
        rows = len(source.labels)
        predicted = np.empty((len(self.members), rows), np.int32)
        for start in range(0, rows, self.tile_images):
            stop = min(start + self.tile_images, rows)
            tile = self._tile_of(stop - start)
            tile.source, tile.rows = source, np.arange(start, stop)
            tile.program.run()
            predicted[:, start:stop] = tile.predicted
        return predicted

    def _tile_of(self, images: int) -> PredictionTile:
        if images not in self._tiles:
            self._tiles[images] = PredictionTile(self, images, self._scratch)
        return self._tiles[images]


class PredictionTile:
    """The program for a tile of so many images; set source and rows. `predicted` is (K, B)."""

    source: FeatureSource
    rows: Array

    def __init__(self, predictor: MembersPredictor, images: int, scratch: Array):
        members, workspace, self.scratch = predictor.members, predictor.workspace, scratch
        config, program = members.config, Program()
        self.program, shape = program, (images, config.tokens)
        self.z = workspace.array("z", (*shape, config.embed_dim))
        self.norms = workspace.array(READ_NORMS, shape)
        self.predicted = np.empty((len(members), images), np.int32)
        program.section("input: read and decode")
        program.emit(self._read, uses=(self.z, self.norms, scratch))
        shared = Shared(members, workspace, images)
        spaces = zip(members.weights, shared.spaces)
        forwards = [ForwardPass(weights, space, images) for weights, space in spaces]
        shared.emit(program, forwards[0])
        for index, forward in enumerate(forwards):
            shared.emit_forward(program, forward)
            program.section("metrics: the most probable class")
            program.emit(most_probable, forward.logits, self.predicted[index])

    @ops.elementwise(passes=4)  # of float16, the usual codec
    def _read(self) -> None:
        self.source.read(self.rows, self.z, self.norms, self.scratch)


@ops.elementwise(passes=2)
def most_probable(logits: Array, out: Array) -> None:
    """Index of the largest logit of each row, in `out`; NOT_FINITE where one is not finite."""
    np.copyto(out, logits.argmax(axis=1), casting="same_kind")
    out[~np.isfinite(logits).all(axis=1)] = NOT_FINITE


def evaluate_members(
    predictors: Sequence[MembersPredictor],
    source: FeatureSource,
    before_tile: Callable[[], object] = lambda: None,
) -> list[Evaluation | None]:
    """What each member gets right, with lanes side by side; None where a logit is not finite.

    `before_tile` may raise, to stop it.
    """
    first = predictors[0]
    parts = cut(source, first.tile_images, len(predictors), before_tile)
    found = side_by_side([(p.predict, part) for p, part in zip(predictors, parts)])
    classes = first.members.config.classes
    return [
        None if predicted.min() < 0 else evaluation_of(source.labels, predicted, classes)
        for predicted in np.concatenate(found, axis=1)
    ]
