"""Evaluation in lanes: each predicts a part of the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_runtime.metrics import Evaluation
from edge_runtime.predictor import Predictor
from edge_runtime.sources import FeatureSource
from trainer_lite.threads import side_by_side

Array = np.ndarray[Any, Any]


class Part:
    """Rows of a source from `start` to `stop`; `before` is called before each read."""

    def __init__(
        self,
        source: FeatureSource,
        start: int,
        stop: int,
        before: Callable[[], object] = lambda: None,
    ):
        self.source, self.start, self.before = source, start, before
        self.tokens, self.embed_dim = source.tokens, source.embed_dim
        self.labels = source.labels[start:stop]
        self.mask_size = getattr(source, "mask_size", 0)

    def scratch_bytes(self, images: int) -> int:
        return self.source.scratch_bytes(images)

    def read(self, rows: Array, z: Array, norms: Array, scratch: Array) -> None:
        self.before()
        self.source.read(rows + self.start, z, norms, scratch)

    def read_masks(self, rows: Array, out: Array) -> None:
        self.source.read_masks(rows + self.start, out)  # type: ignore[attr-defined]


def evaluate(
    predictors: Sequence[Predictor],
    source: FeatureSource,
    before_tile: Callable[[], object] = lambda: None,
) -> Evaluation:
    """What one predictor would find, from several at once. Rows are cut at whole tiles.

    `before_tile` may raise, to stop it.
    """
    parts = cut(source, predictors[0].tile_images, len(predictors), before_tile)
    found = side_by_side([(p.evaluate, part) for p, part in zip(predictors, parts)])
    return type(found[0])(np.sum([evaluation.confusion for evaluation in found], axis=0))


def cut(
    source: FeatureSource, tile: int, count: int, before_tile: Callable[[], object]
) -> list[Part]:
    """A source in so many parts, or fewer, each of whole tiles but for the last."""
    rows = len(source.labels)
    tiles = -(-rows // tile)
    bounds = [min(rows, tile * (tiles * index // count)) for index in range(count)] + [rows]
    return [
        Part(source, start, stop, before_tile)
        for start, stop in zip(bounds, bounds[1:])
        if start < stop
    ]
