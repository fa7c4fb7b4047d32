"""Runs the forward pass over any number of images, a tile at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import DataError, MismatchError
from edge_runtime.forward import ForwardPass, default_tile
from edge_runtime.metrics import Evaluation, evaluation_of
from edge_runtime.program import Program, Workspace
from edge_runtime.sources import FeatureSource
from edge_runtime.weights import FusedWeights

Array = np.ndarray[Any, Any]


class Predictor:
    """Buffers and programs for inference; `weights` must have been refreshed."""

    def __init__(self, weights: FusedWeights, workspace: Workspace, tile: int | None = None):
        self.weights, self.workspace = weights, workspace
        self.tile = tile or default_tile(weights.config.tokens)
        self._passes: dict[int, tuple[ForwardPass, Program]] = {}
        self._pass_of(self.tile)  # the largest first: it sets how large the buffers are

    def logits(self, source: FeatureSource) -> Array:
        """Logits of every row, (rows, classes).

        Raises:
            MismatchError: features of another shape than the adaptor's.
            DataError: a logit is not finite.
        """
        config = self.weights.config
        check_shape(config, source)
        rows = len(source.labels)
        out = np.empty((rows, config.classes), self.workspace.dtype)
        for start in range(0, rows, self.tile):
            part = np.arange(start, min(start + self.tile, rows))
            forward, program = self._pass_of(len(part))
            shape = (len(part), config.tokens)
            z = forward.z.reshape(*shape, config.embed_dim)
            source.read(part, z, forward.norms.reshape(shape))
            with np.errstate(all="ignore"):  # what overflows is refused below
                program.run()
            out[start : start + len(part)] = forward.logits
        if not np.isfinite(out).all():
            raise DataError(
                "the adaptor's logits are not finite: its weights or these features are beyond "
                "float32; train again with a lower --lr, or extract the features again"
            )
        return out

    def evaluate(self, source: FeatureSource) -> Evaluation:
        """Confusion of the most probable class against the labels."""
        predicted = self.logits(source).argmax(axis=1)
        return evaluation_of(source.labels, predicted, self.weights.config.classes)

    def _pass_of(self, images: int) -> tuple[ForwardPass, Program]:
        if images not in self._passes:
            forward, program = ForwardPass(self.weights, self.workspace, images), Program()
            forward.emit(program)
            self._passes[images] = forward, program
        return self._passes[images]


def check_shape(config: AdaptorConfig, source: FeatureSource) -> None:
    """MismatchError where features have another shape than the adaptor's."""
    if (source.tokens, source.embed_dim) != (config.tokens, config.embed_dim):
        raise MismatchError(
            f"the adaptor takes features of {config.tokens} tokens x {config.embed_dim}, these "
            f"are {source.tokens} x {source.embed_dim}; they come from another backbone"
        )
