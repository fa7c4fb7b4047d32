"""Bytes against accuracy: the same training on the same features in every codec."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from edge_runtime.codecs import CODECS, Codec
from edge_runtime.errors import ConfigError
from edge_runtime.features import FeatureFolder
from trainer_lite.config import TrainConfig
from trainer_lite.trainer import Trainer
from trainer_lite.transcode import transcode

TOLERANCE = 0.01  # of validation accuracy: what a smaller codec may cost to be recommended


@dataclass(frozen=True)
class Point:
    """One codec: bytes an image, and scores of the last epoch, a seed each: accuracies, or mean
    IoUs."""

    codec: str
    bytes_per_image: int
    val: list[float]
    test: list[float]

    @property
    def mean_val(self) -> float:
        return statistics.fmean(self.val)


def frontier(
    features: FeatureFolder,
    config: TrainConfig,
    seeds: Sequence[int],
    advance: Callable[[int, str], None],
    *,
    memory_budget: int | None = None,
    threads: int = 1,
) -> list[Point]:
    """Every codec that these features can be stored in, the largest first.

    Args:
        memory_budget, threads: as for any training; the budget holds for the whole process.

    Raises:
        ConfigError: there is no val split, or the features are pooled already.
        BudgetError: the memory budget cannot be kept, or was not.
    """
    if "val" not in features.split_names or config.fit_on != "train":
        raise ConfigError(
            "codecs are compared on the val split; extract a folder that has one, and fit on train"
        )
    points = []
    with tempfile.TemporaryDirectory(prefix="edgetune-codecs-") as temporary:
        for codec in candidates(features):
            copy = transcode(features, codec, Path(temporary) / codec.name)
            val, test = [], []
            for seed in seeds:
                trainer = Trainer(
                    replace(config, seed=seed),
                    on_best=lambda adaptor: None,  # the last epoch is compared
                    memory_budget=memory_budget,
                    threads=threads,
                )
                result = trainer.fit(copy)
                val.append(result.history[-1].val_accuracy or 0.0)
                if result.test is not None:
                    test.append(result.test.score)
                advance(1, f"{codec.name}: val {val[-1]:.3f}")
            size = codec.bytes_per_image(copy.tokens, copy.embed_dim)  # of what varies: no masks
            points.append(Point(codec.name, size, val, test))
    return sorted(points, key=lambda point: -point.bytes_per_image)


def candidates(features: FeatureFolder) -> list[Codec]:
    """Codecs no finer than that of the features: what is lost does not come back."""
    size = features.codec.bytes_per_image(features.tokens, features.embed_dim)
    found = []
    for codec in CODECS.values():
        with suppress(ConfigError):  # no grid to pool
            tokens = codec.stored_tokens(features.tokens, features.prefix_tokens)
            if codec.bytes_per_image(tokens, features.embed_dim) <= size:
                found.append(codec)
    return found


def recommended(points: Sequence[Point]) -> Point:
    """The smallest whose mean validation accuracy is within TOLERANCE of the best."""
    best = max(point.mean_val for point in points)
    good = [point for point in points if point.mean_val >= best - TOLERANCE]
    return min(good, key=lambda point: point.bytes_per_image)
