"""Trains an adaptor on a feature folder: epochs, validation, best and last."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.adaptor import Adaptor
from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import ConfigError, DataError
from edge_runtime.features import FeatureFolder
from edge_runtime.forward import default_tile
from edge_runtime.memory import peak_rss_bytes
from edge_runtime.metrics import Evaluation
from edge_runtime.program import Workspace
from edge_runtime.sources import FeatureSource
from edge_runtime.weights import FusedWeights
from trainer_lite.batches import Joined, drop_path_factors, epoch_batches
from trainer_lite.build import build_step
from trainer_lite.config import TrainConfig
from trainer_lite.optim import AdamW
from trainer_lite.parameters import ParameterSet
from trainer_lite.schedule import learning_rate

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class EpochReport:
    """What one epoch came to; accuracies are fractions, `rate` is images trained on a second."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_accuracy: float | None
    rate: float


@dataclass(frozen=True)
class StepReport:
    """What one step came to; `accuracy` is the batch's, a fraction."""

    step: int
    steps: int
    images: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class TrainResult:
    """A finished run. `best` is the adaptor of the epoch with the best validation accuracy, None
    where there was no validation; `test` is of the last epoch: test never chooses anything."""

    adaptor: Adaptor
    best: Adaptor | None
    history: list[EpochReport]
    test: Evaluation | None
    steps: int
    seconds: float
    peak_rss_bytes: int

    @property
    def best_epoch(self) -> EpochReport | None:
        """The epoch that `best` is of, the first of equals."""
        if self.best is None:
            return None
        return max(self.history, key=lambda report: report.val_accuracy or 0.0)


class Trainer:
    """Trains adaptors with one configuration.

    Args:
        on_step, on_epoch: called after each, for progress.
        tile: images a pass; the gradient does not depend on it.
    """

    def __init__(
        self,
        config: TrainConfig | None = None,
        *,
        on_step: Callable[[StepReport], None] | None = None,
        on_epoch: Callable[[EpochReport], None] | None = None,
        tile: int | None = None,
    ):
        self.config = config or TrainConfig()
        self.on_step, self.on_epoch, self.tile = on_step, on_epoch, tile

    def fit(self, features: FeatureFolder) -> TrainResult:
        """Trains on the folder's train split (or train + val), validates on val.

        Raises:
            ConfigError: options that do not fit these features.
            DataError, FormatError: features that cannot be used.
        """
        with np.errstate(all="ignore"):  # what overflows ends in a loss that is refused
            return _Run(self, features).run()


class _Run:
    """The state of one training run."""

    def __init__(self, trainer: Trainer, features: FeatureFolder):
        self.trainer, self.features, self.config = trainer, features, trainer.config
        self.adaptor_config = shape_of(self.config, features)
        features.check()
        self.source, self.val = sources(features, self.config.fit_on)
        self.labels = self.source.labels
        check_data(self.config, self.labels, features)
        self.parameters = ParameterSet(self.adaptor_config)
        self.parameters.initialise(self.config.seed)
        tile = trainer.tile or default_tile(features.tokens)
        evaluated = [features.split(name) for name in features.split_names if name != "train"]
        self.weights = FusedWeights(self.adaptor_config, self.parameters.values, Workspace())
        self.planned = build_step(
            self.weights,
            self.parameters.gradients,
            self.source,
            batch=self.config.batch_size,
            tile=tile,
            scratch_bytes=max((split.scratch_bytes(tile) for split in evaluated), default=0),
            smoothing=self.config.label_smoothing,
            drop_path=self.config.drop_path if self.adaptor_config.blocks else 0.0,
        )
        self.optimiser = AdamW(
            self.parameters.flat,
            self.parameters.flat_gradient,
            decayed=self.parameters.decayed,
            weight_decay=self.config.weight_decay,
        )
        self.steps = self.config.epochs * math.ceil(len(self.labels) / self.config.batch_size)
        self.done = 0

    def run(self) -> TrainResult:
        started = time.monotonic()
        history: list[EpochReport] = []
        best: Array | None = None
        best_accuracy = -1.0
        for epoch in range(1, self.config.epochs + 1):
            report = self._epoch(epoch)
            history.append(report)
            if report.val_accuracy is not None and report.val_accuracy > best_accuracy:
                best_accuracy, best = report.val_accuracy, self.parameters.flat.copy()
            if self.trainer.on_epoch:
                self.trainer.on_epoch(report)
        names = self.features.split_names
        test = self._evaluate(self.features.split("test")) if "test" in names else None
        last = self._adaptor(self.parameters.flat)
        return TrainResult(
            adaptor=last,
            best=None if best is None else self._adaptor(best),
            history=history,
            test=test,
            steps=self.done,
            seconds=time.monotonic() - started,
            peak_rss_bytes=peak_rss_bytes(),
        )

    def _epoch(self, epoch: int) -> EpochReport:
        config, started = self.config, time.monotonic()
        total_loss, total_correct = 0.0, 0
        for rows in epoch_batches(len(self.labels), config.batch_size, config.seed, epoch):
            loss, correct = self._step(rows)
            total_loss += loss
            total_correct += correct
            if self.trainer.on_step:
                count = len(rows)
                self.trainer.on_step(
                    StepReport(self.done, self.steps, count, loss / count, correct / count)
                )
        count, seconds = len(self.labels), time.monotonic() - started
        accuracy = None if self.val is None else self._evaluate(self.val).accuracy
        return EpochReport(
            epoch, total_loss / count, total_correct / count, accuracy, count / max(seconds, 1e-9)
        )

    def _step(self, rows: Array) -> tuple[float, int]:
        """One batch: (summed loss, images classified rightly)."""
        config, drop = self.config, None
        if config.drop_path > 0:
            blocks = self.adaptor_config.blocks
            drop = drop_path_factors(config.drop_path, blocks, len(rows), config.seed, self.done)
        loss, correct = self.planned.step.run(rows, self.labels[rows], drop)
        if not math.isfinite(loss):
            raise DataError(
                f"the loss stopped being finite at step {self.done + 1}; try a lower --lr "
                f"(now {config.rate:g})"
            )
        self.optimiser.step(learning_rate(self.done, self.steps, config.rate, config.warmup))
        self.done += 1
        return loss, correct

    def _evaluate(self, source: FeatureSource) -> Evaluation:
        self.weights.refresh()
        return self.planned.predictor.evaluate(source)

    def _adaptor(self, flat: Array) -> Adaptor:
        """An adaptor with a copy of these parameters."""
        kept = ParameterSet(self.adaptor_config)
        np.copyto(kept.flat, flat)
        features = self.features
        return Adaptor(
            self.adaptor_config,
            kept.values,
            list(features.classes),
            features.backbone,
            {"identity": features.identity, "codec": features.codec.name},
            self.config.to_json(),
        )


def sources(features: FeatureFolder, fit_on: str) -> tuple[FeatureSource, FeatureSource | None]:
    """(what is trained on, what is validated on)."""
    train = features.split("train")
    has_val = "val" in features.split_names
    if fit_on == "train":
        return train, features.split("val") if has_val else None
    if not has_val:
        raise ConfigError(f"{features.path} has no val split to fit on; use --fit-on train")
    return Joined([train, features.split("val")]), None


def shape_of(config: TrainConfig, features: FeatureFolder) -> AdaptorConfig:
    """The adaptor's configuration on these features; input_rms is the train split's."""
    return config.adaptor_config(
        tokens=features.tokens,
        prefix_tokens=features.prefix_tokens,
        embed_dim=features.embed_dim,
        classes=len(features.classes),
        norm_eps=features.norm_eps,
        input_rms=features.split("train").rms,
    )


def check_data(config: TrainConfig, labels: Array, features: FeatureFolder) -> None:
    """Refuses sets too small for the batch, or of one class only."""
    if config.batch_size > len(labels):
        raise ConfigError(
            f"batch size {config.batch_size} is larger than the {len(labels)} images of the set; "
            f"use --batch-size {len(labels)} or less"
        )
    if int(labels.min()) == int(labels.max()):
        raise DataError(
            f"all images of {features.path} are of one class ({features.classes[labels[0]]}); "
            f"at least two classes are needed"
        )
