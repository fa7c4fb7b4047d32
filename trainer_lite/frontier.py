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
from trainer_lite.directions import Directions, check_width
from trainer_lite.trainer import Trainer
from trainer_lite.transcode import directions, transcode

BASIS_CODECS = ("int8", "int4", "int8-pool2", "int4-pool2")  # the others lose to int8 in any basis
TOLERANCE = 0.01  # of validation accuracy: what a smaller codec may cost to be recommended


@dataclass(frozen=True)
class Point:
    """One codec, in a basis of so many or in none: bytes an image, and scores of the last epoch, a
    seed each: accuracies, or mean IoUs."""

    codec: str
    basis: int | None
    bytes_per_image: int
    val: list[float]
    test: list[float]

    @property
    def mean_val(self) -> float:
        return statistics.fmean(self.val)

    @property
    def name(self) -> str:
        """Of the codec and the basis, for people."""
        return form_name(self.codec, self.basis)


def frontier(
    features: FeatureFolder,
    config: TrainConfig,
    seeds: Sequence[int],
    advance: Callable[[int, str], None],
    *,
    widths: Sequence[int] = (),
    only: Sequence[str] = (),
    memory_budget: int | None = None,
    threads: int = 1,
) -> list[Point]:
    """Every codec that these features can be stored in, the largest first.

    Args:
        widths: of bases to try, each with the codecs that BASIS_CODECS names.
        only: names of codecs; all by default.
        memory_budget, threads: as for any training; the budget holds for the whole process.

    Raises:
        ConfigError: there is no val split, the features are pooled or in a basis already, or a
            basis cannot be of that width.
        BudgetError: the memory budget cannot be kept, or was not.
    """
    if "val" not in features.split_names or config.fit_on != "train":
        raise ConfigError(
            "codecs are compared on the val split; extract a folder that has one, and fit on train"
        )
    points = []
    with tempfile.TemporaryDirectory(prefix="edgetune-codecs-") as temporary:
        fitted: dict[int, Directions] = {}
        for codec, width in candidates(features, widths, only):
            basis = None
            if width is not None:
                if codec.pool not in fitted:
                    fitted[codec.pool] = directions(features, codec)
                basis = fitted[codec.pool].basis(width)
            name = form_name(codec.name, width)
            copy = transcode(features, codec, Path(temporary) / name, basis)
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
                advance(1, f"{name}: val {val[-1]:.3f}")
            size = codec.bytes_per_image(copy.tokens, copy.embed_dim)  # of what varies: no masks
            points.append(Point(codec.name, width, size, val, test))
    return sorted(points, key=lambda point: -point.bytes_per_image)


def candidates(
    features: FeatureFolder, widths: Sequence[int] = (), only: Sequence[str] = ()
) -> list[tuple[Codec, int | None]]:
    """Codecs no finer than that of the features: what is lost does not come back. Then those of
    BASIS_CODECS in each basis.

    Raises:
        ConfigError: a basis cannot be of that width.
    """
    for width in widths:
        check_width(width, features.embed_dim)
    size = features.codec.bytes_per_image(features.tokens, features.embed_dim)
    found = []
    for codec in (CODECS[name] for name in only or CODECS):
        with suppress(ConfigError):  # no grid to pool
            tokens = codec.stored_tokens(features.tokens, features.prefix_tokens)
            if codec.bytes_per_image(tokens, features.embed_dim) <= size:
                found.append(codec)
    plain: list[tuple[Codec, int | None]] = [(codec, None) for codec in found]
    return plain + [(c, width) for width in widths for c in found if c.name in BASIS_CODECS]


def form_name(codec: str, basis: int | None) -> str:
    """A codec and a basis in words."""
    return codec if basis is None else f"{codec} basis {basis}"


def recommended(points: Sequence[Point]) -> Point:
    """The smallest whose mean validation accuracy is within TOLERANCE of the best."""
    best = max(point.mean_val for point in points)
    good = [point for point in points if point.mean_val >= best - TOLERANCE]
    return min(good, key=lambda point: point.bytes_per_image)
