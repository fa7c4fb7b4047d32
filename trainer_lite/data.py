"""What a run trains on and evaluates on, checked before anything else is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.codecs import Codec, scratch_layout
from edge_runtime.config import IGNORED, AdaptorConfig
from edge_runtime.errors import ConfigError, DataError
from edge_runtime.features import FeatureFolder
from edge_runtime.selected import Selected
from edge_runtime.sources import FeatureSource
from trainer_lite.batches import Joined
from trainer_lite.config import TrainConfig

if TYPE_CHECKING:
    from trainer_lite.start import Start

Array = np.ndarray[Any, Any]

PATCH = 16  # pixels along a side of a patch, as most backbones have them


@dataclass(frozen=True)
class TrainingData:
    """Sources of a run. `evaluated` are all that are not trained on alone: val and test."""

    adaptor: AdaptorConfig
    source: FeatureSource
    val: FeatureSource | None = None
    evaluated: list[FeatureSource] = field(default_factory=list)


def prepare(
    config: TrainConfig, features: FeatureFolder, start: Start | None = None
) -> TrainingData:
    """Opens the splits of a feature folder, reading every shard once.

    Raises:
        ConfigError: options that do not fit these features.
        MismatchError: an adaptor to start from that does not fit them.
        DataError, FormatError: features that cannot be used.
    """
    check_kind(config, features)
    if start is not None:
        adaptor = start.shape_on(features)
    else:
        adaptor = config.adaptor_config(
            tokens=features.tokens,
            prefix_tokens=features.prefix_tokens,
            embed_dim=features.embed_dim,
            classes=len(features.classes),
            norm_eps=features.norm_eps,
            input_rms=features.split("train").rms,
        )
    features.check()
    source, val = sources(config, features)
    check_labels(config, source.labels, features)
    others = [features.split(name) for name in features.split_names if name != "train"]
    return TrainingData(adaptor, source, val, list(others))


def check_kind(config: TrainConfig, features: FeatureFolder) -> None:
    """Refuses masks where an image has a class, and the other way round."""
    if (config.kind == "segmentation") == (features.masks is not None):
        return
    if features.masks is not None:
        raise ConfigError(f"{features.path} has masks; use --kind segmentation")
    raise ConfigError(
        f"kind segmentation needs masks, and {features.path} has none; extract a folder with "
        f"images/, masks/ and classes.txt"
    )


def sources(
    config: TrainConfig, features: FeatureFolder
) -> tuple[FeatureSource, FeatureSource | None]:
    """(what is trained on, what is validated on)."""
    source: FeatureSource = features.split("train")
    val = features.split("val") if "val" in features.split_names else None
    if config.fit_on != "train":
        if val is None:
            raise ConfigError(f"{features.path} has no val split to fit on; use --fit-on train")
        source, val = Joined([source, val]), None
    return balanced(source) if config.balance else source, val


def balanced(source: FeatureSource) -> Selected:
    """Rows of rarer classes several times over, so that there are as many of each class.

    Qi et al. (trainer_lite/imprint.py) sample classes so when they train on after imprinting.
    """
    counts = np.bincount(source.labels)
    most = int(counts.max())
    rows = np.concatenate(
        [
            np.resize(np.flatnonzero(source.labels == index), most)
            for index in np.flatnonzero(counts)
        ]
    )
    return Selected(source, rows, source.labels[rows])


def check_labels(config: TrainConfig, labels: Array, features: FeatureFolder) -> None:
    """Refuses sets too small for the batch, or of one class only."""
    check_batch(config, len(labels))
    if labels.ndim == 2:
        labels = labels[labels != IGNORED]
        if not labels.size:
            raise DataError(f"no patch of {features.path} has a class in its mask; all are ignored")
    if int(labels.min()) == int(labels.max()):
        what = "images" if features.masks is None else "labelled patches"
        raise DataError(
            f"all {what} of {features.path} are of one class ({features.classes[labels[0]]}); "
            f"at least two classes are needed"
        )


def check_batch(config: TrainConfig, rows: int) -> None:
    """Refuses a batch larger than the set."""
    if config.batch_size > rows:
        raise ConfigError(
            f"batch size {config.batch_size} is larger than the {rows} images of the set; "
            f"use --batch-size {rows} or less"
        )


class ShapeSource:
    """Features that are not there yet: enough to plan with, nothing to read.

    Args:
        patch_tokens: that have labels, where images have masks. mask_size: pixels along a side.
    """

    def __init__(
        self,
        codec: Codec,
        tokens: int,
        embed_dim: int,
        rows: int,
        patch_tokens: int = 0,
        mask_size: int = 0,
    ):
        self.codec, self.tokens, self.embed_dim = codec, tokens, embed_dim
        dense = bool(patch_tokens)
        shape = (rows, patch_tokens) if dense else (rows,)
        self.labels: Array = np.zeros(shape, np.uint8 if dense else np.int32)
        self.mask_size = mask_size

    def scratch_bytes(self, images: int) -> int:
        return scratch_layout(self.codec, images, self.tokens, self.embed_dim)[1]

    def read(self, rows: Array, z: Array, norms: Array, scratch: Array) -> None:
        raise NotImplementedError("a shape alone holds no features")


def prepare_shape(
    config: TrainConfig, codec: Codec, tokens: int, embed_dim: int, classes: int, rows: int
) -> TrainingData:
    """As `prepare`, for features of that shape: one class token, a val and a test split.

    Masks are taken to have PATCH pixels a token.
    """
    check_batch(config, rows)
    adaptor = config.adaptor_config(
        tokens=tokens,
        prefix_tokens=1,
        embed_dim=embed_dim,
        classes=classes,
        norm_eps=1e-6,
        input_rms=1.0,
    )
    masks = (adaptor.patch_tokens, PATCH * adaptor.grid_side) if adaptor.dense else (0, 0)
    source = ShapeSource(codec, tokens, embed_dim, rows, *masks)
    return TrainingData(adaptor, source, source, [source])
