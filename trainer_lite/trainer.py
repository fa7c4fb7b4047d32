"""Trains an adaptor on a feature folder: epochs, validation, best and last."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.adaptor import Adaptor
from edge_runtime.allocate import zeros
from edge_runtime.errors import BudgetError, DataError
from edge_runtime.features import FeatureFolder
from edge_runtime.memory import peak_rss_bytes
from edge_runtime.metrics import Evaluation
from edge_runtime.program import Workspace
from edge_runtime.sources import FeatureSource, prefetch
from edge_runtime.weights import FusedWeights
from trainer_lite.batches import drop_path_factors, epoch_batches, with_next
from trainer_lite.budget import MemoryPlan, Planner, check_budget, check_limits, choose_tile
from trainer_lite.build import build_step
from trainer_lite.config import TrainConfig
from trainer_lite.data import prepare
from trainer_lite.evaluation import evaluate
from trainer_lite.optim import AdamW
from trainer_lite.parameters import ParameterSet, views
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
    """A finished run. `best` is the adaptor of the epoch with the best validation accuracy; None
    where there was no validation, or where `on_best` took it. `test` is of the last epoch: test
    never chooses anything."""

    adaptor: Adaptor
    best: Adaptor | None
    history: list[EpochReport]
    test: Evaluation | None
    steps: int
    seconds: float
    peak_rss_bytes: int
    plan: MemoryPlan

    @property
    def best_epoch(self) -> EpochReport | None:
        """The first epoch with the best validation accuracy; None where there was none."""
        if self.history[-1].val_accuracy is None:
            return None
        return max(self.history, key=lambda report: report.val_accuracy or 0.0)


class Trainer:
    """Trains adaptors with one configuration.

    Args:
        on_step, on_epoch: called after each, for progress.
        on_best: takes the adaptor whenever validation got better, as views that change with the
            next step; without it a copy of the best is kept in memory.
        memory_budget: bytes that the whole process may take (peak RSS), or None.
        threads: tiles that run side by side, as far as the budget allows; BLAS should have one
            thread then. The same number gives the same bits.
        tile: images a pass, in place of the planner's choice; the gradient does not depend on it.
    """

    def __init__(
        self,
        config: TrainConfig | None = None,
        *,
        on_step: Callable[[StepReport], None] | None = None,
        on_epoch: Callable[[EpochReport], None] | None = None,
        on_best: Callable[[Adaptor], None] | None = None,
        memory_budget: int | None = None,
        threads: int = 1,
        tile: int | None = None,
    ):
        self.config = config or TrainConfig()
        self.on_step, self.on_epoch, self.on_best = on_step, on_epoch, on_best
        self.memory_budget, self.threads, self.tile = memory_budget, threads, tile

    def fit(self, features: FeatureFolder) -> TrainResult:
        """Trains on the folder's train split (or train + val), validates on val.

        Raises:
            ConfigError: options that do not fit these features.
            DataError, FormatError: features that cannot be used.
            BudgetError: the memory budget cannot be kept; nothing was done.
            BudgetPassedError: the run passed it, and was stopped.
        """
        with np.errstate(all="ignore"):  # what overflows ends in a loss that is refused
            return _Run(self, features).run()


class BudgetPassedError(BudgetError):
    """A run stopped because it passed its memory budget; `adaptor` is as far as it had come."""

    def __init__(self, message: str, adaptor: Adaptor):
        super().__init__(message)
        self.adaptor = adaptor


class _Run:
    """The state of one training run."""

    def __init__(self, trainer: Trainer, features: FeatureFolder):
        self.trainer, self.features, self.config = trainer, features, trainer.config
        data = prepare(self.config, features)
        self.adaptor_config, self.source, self.val = data.adaptor, data.source, data.val
        self.labels = self.source.labels
        self.best: Array | None = None  # a copy, kept where nobody else does
        keep = data.val is not None and trainer.on_best is None
        planner = Planner(
            data.adaptor,
            self.config,
            data.source,
            data.evaluated,
            keep_best=keep,
            threads=trainer.threads,
        )
        if trainer.tile is None:
            self.plan = choose_tile(planner, trainer.memory_budget)
        else:
            self.plan = planner.plan(trainer.tile, trainer.threads)
        check_limits(self.plan)
        self.parameters = ParameterSet(self.adaptor_config)
        self.parameters.initialise(self.config.seed)
        if keep:
            self.best = zeros(self.parameters.flat.shape, self.parameters.flat.dtype)
        self.weights = FusedWeights(self.adaptor_config, self.parameters.values, Workspace())
        self.step, self.predictors = build_step(
            self.weights,
            self.source,
            planner.shape(self.plan.tile_images, self.plan.lanes),
            self.plan.step,
        )
        self.optimiser = AdamW(
            self.parameters.flat,
            self.step.gradient,
            decayed=self.parameters.decayed,
            weight_decay=self.config.weight_decay,
        )
        self.steps = self.config.epochs * math.ceil(len(self.labels) / self.config.batch_size)
        self.done = 0

    def run(self) -> TrainResult:
        try:
            return self._run()
        except BudgetError as error:
            raise BudgetPassedError(str(error), self._adaptor(self.parameters.flat)) from None

    def _run(self) -> TrainResult:
        started = time.monotonic()
        history: list[EpochReport] = []
        best_accuracy: float | None = None
        for epoch in range(1, self.config.epochs + 1):
            report = self._epoch(epoch)
            history.append(report)
            found = report.val_accuracy
            if found is not None and (best_accuracy is None or found > best_accuracy):
                best_accuracy = found
                if self.best is not None:
                    np.copyto(self.best, self.parameters.flat)
                elif self.trainer.on_best:
                    self.trainer.on_best(self._adaptor(self.parameters.flat))
            if self.trainer.on_epoch:
                self.trainer.on_epoch(report)
        names = self.features.split_names
        test = self._evaluate(self.features.split("test")) if "test" in names else None
        last = self._adaptor(self.parameters.flat)
        return TrainResult(
            adaptor=last,
            best=None if self.best is None else self._adaptor(self.best),
            plan=self.plan,
            history=history,
            test=test,
            steps=self.done,
            seconds=time.monotonic() - started,
            peak_rss_bytes=peak_rss_bytes(),
        )

    def _epoch(self, epoch: int) -> EpochReport:
        config, started = self.config, time.monotonic()
        total_loss, total_correct = 0.0, 0
        batches = epoch_batches(len(self.labels), config.batch_size, config.seed, epoch)
        for rows, following in with_next(batches):
            if following is not None:
                prefetch(self.source, following)
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
        loss, correct = self.step.run(rows, self.labels[rows], drop)
        if not math.isfinite(loss):
            raise DataError(
                f"the loss stopped being finite at step {self.done + 1}; try a lower --lr "
                f"(now {config.rate:g})"
            )
        self.optimiser.step(learning_rate(self.done, self.steps, config.rate, config.warmup))
        self.done += 1
        check_budget(self.trainer.memory_budget)
        return loss, correct

    def _evaluate(self, source: FeatureSource) -> Evaluation:
        self.weights.refresh()
        return evaluate(self.predictors, source)

    def _adaptor(self, flat: Array) -> Adaptor:
        """An adaptor whose parameters are views of `flat`."""
        features = self.features
        return Adaptor(
            self.adaptor_config,
            views(self.adaptor_config, flat),
            list(features.classes),
            features.backbone,
            {"identity": features.identity, "codec": features.codec.name},
            self.config.to_json(),
        )
