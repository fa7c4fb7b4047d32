"""Runs the forward pass over any number of images, a tile at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edge_runtime import ops
from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import DataError, MismatchError
from edge_runtime.forward import ForwardPass, default_tile
from edge_runtime.metrics import Evaluation, evaluation_of
from edge_runtime.program import Program, Workspace
from edge_runtime.sources import FeatureSource
from edge_runtime.weights import FusedWeights

Array = np.ndarray[Any, Any]


class Predictor:
    """Buffers and programs for inference; `weights` must have been refreshed.

    Args:
        tile: images a pass; by default about 400 tokens.
        scratch_bytes: work space for reading; a source that needs more gets its own.
    """

    def __init__(
        self,
        weights: FusedWeights,
        workspace: Workspace,
        tile: int | None = None,
        scratch_bytes: int = 0,
    ):
        self.weights, self.workspace = weights, workspace
        self.tile_images = tile or default_tile(weights.config.tokens)
        self._scratch = workspace.array("scratch", (scratch_bytes,), np.uint8)
        self._tiles: dict[int, InferenceTile] = {}
        self.tile = self._tile_of(self.tile_images).program  # the largest first: it sets the sizes

    def logits(self, source: FeatureSource) -> Array:
        """Logits of every row, (rows, classes).

        Raises:
            MismatchError: features of another shape than the adaptor's.
            DataError: a logit is not finite.
        """
        out = np.empty((len(source.labels), self.weights.config.classes), self.workspace.dtype)
        for part, logits in self._run(source):
            out[part] = logits
        return out

    def evaluate(self, source: FeatureSource) -> Evaluation:
        """Confusion of the most probable class against the labels."""
        predicted = np.empty(len(source.labels), np.int32)
        for part, logits in self._run(source):
            predicted[part] = logits.argmax(axis=1)
        return evaluation_of(source.labels, predicted, self.weights.config.classes)

    def _run(self, source: FeatureSource) -> Iterator[tuple[slice, Array]]:
        """(rows, their logits) tile by tile; the logits are overwritten by the next tile."""
        check_shape(self.weights.config, source)
        rows, scratch = len(source.labels), self._scratch
        if source.scratch_bytes(self.tile_images) > scratch.size:
            scratch = np.empty(source.scratch_bytes(self.tile_images), np.uint8)
        for start in range(0, rows, self.tile_images):
            part = slice(start, min(start + self.tile_images, rows))
            tile = self._tile_of(part.stop - start)
            tile.source, tile.rows = source, np.arange(start, part.stop)
            tile.scratch = scratch
            with np.errstate(all="ignore"):  # what overflows is refused below
                tile.program.run()
            if not np.isfinite(tile.forward.logits).all():
                raise DataError(
                    "the adaptor's logits are not finite: its weights or these features are beyond "
                    "float32; train again with a lower --lr, or extract the features again"
                )
            yield part, tile.forward.logits

    def _tile_of(self, images: int) -> InferenceTile:
        if images not in self._tiles:
            self._tiles[images] = InferenceTile(self, images, self._scratch)
        return self._tiles[images]


class InferenceTile:
    """The program for a tile of so many images: read, forward. Set source, rows and scratch."""

    source: FeatureSource
    rows: Array

    def __init__(self, predictor: Predictor, images: int, scratch: Array):
        self.forward = ForwardPass(predictor.weights, predictor.workspace, images)
        self.scratch = scratch
        config = predictor.weights.config
        shape = (images, config.tokens)
        self.z = self.forward.z.reshape(*shape, config.embed_dim)
        self.norms = self.forward.norms.reshape(shape)
        self.program = Program()
        self.program.section("input: read and decode")
        self.program.emit(self._read, uses=(self.z, self.norms, scratch))
        self.forward.emit(self.program)

    @ops.elementwise(passes=4)  # of float16, the usual codec
    def _read(self) -> None:
        self.source.read(self.rows, self.z, self.norms, self.scratch)


def check_shape(config: AdaptorConfig, source: FeatureSource) -> None:
    """MismatchError where features have another shape than the adaptor's."""
    if (source.tokens, source.embed_dim) != (config.tokens, config.embed_dim):
        raise MismatchError(
            f"the adaptor takes features of {config.tokens} tokens x {config.embed_dim}, these "
            f"are {source.tokens} x {source.embed_dim}; they come from another backbone"
        )
