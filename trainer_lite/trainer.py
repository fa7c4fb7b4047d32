"""Trains an adaptor on a feature folder: epochs, validation, best and last."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.adaptor import Adaptor
from edge_runtime.allocate import zeros
from edge_runtime.code_pages import release_code_pages
from edge_runtime.errors import BudgetError, ConfigError
from edge_runtime.features import FeatureFolder
from edge_runtime.memory import peak_rss_bytes
from edge_runtime.metrics import Evaluation
from edge_runtime.program import Workspace
from edge_runtime.sources import FeatureSource, prefetch
from edge_runtime.weights import FusedWeights
from trainer_lite.batches import drop_path_factors, epoch_batches, with_next
from trainer_lite.budget import (
    MemoryPlan,
    Planner,
    check_budget,
    check_limits,
    choose_tile,
    planned_again,
)
from trainer_lite.build import build_step
from trainer_lite.config import TrainConfig
from trainer_lite.data import prepare
from trainer_lite.evaluation import evaluate
from trainer_lite.optim import AdamW, clip, gradient_norm
from trainer_lite.parameters import ParameterSet, trained_part, views
from trainer_lite.reports import EpochReport, StepReport, TrainResult
from trainer_lite.schedule import learning_rate
from trainer_lite.skipping import Skips
from trainer_lite.state import State
from trainer_lite.step import counted
from trainer_lite.stops import (
    BudgetPassedError,
    InterruptedRunError,
    NotFiniteError,
    StoppedError,
)

if TYPE_CHECKING:
    from trainer_lite.checkpoint import Checkpoints
    from trainer_lite.generation import Generation
    from trainer_lite.start import Start

Array = np.ndarray[Any, Any]


class Trainer:
    """Trains adaptors with one configuration.

    Args:
        on_step, on_epoch: called after each, for progress.
        on_best: takes the adaptor whenever validation got better, as views that change with the
            next step; without it a copy of the best is kept in memory.
        on_warning: takes messages for people.
        memory_budget: bytes that the whole process may take (peak RSS), or None.
        threads: tiles that run side by side, as far as the budget allows; BLAS should have one
            thread then. The same number gives the same bits.
        tile: images a pass, in place of the planner's choice; the gradient does not depend on it.
        checkpoints: where the run's state is kept; a run that goes on from there gives the same
            bits as one that nothing interrupted.
        stop_requested: asked between steps, and while it evaluates; the run then saves its state
            and stops.
        start: the adaptor to start from; `config` is what its `config` gave.
    """

    def __init__(
        self,
        config: TrainConfig | None = None,
        *,
        on_step: Callable[[StepReport], None] | None = None,
        on_epoch: Callable[[EpochReport], None] | None = None,
        on_best: Callable[[Adaptor], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
        memory_budget: int | None = None,
        threads: int = 1,
        tile: int | None = None,
        checkpoints: Checkpoints | None = None,
        stop_requested: Callable[[], bool] | None = None,
        start: Start | None = None,
    ):
        self.config = config or TrainConfig()
        self.on_step, self.on_epoch, self.on_best = on_step, on_epoch, on_best
        self.on_warning = on_warning or (lambda message: None)
        self.memory_budget, self.threads, self.tile = memory_budget, threads, tile
        self.checkpoints = checkpoints
        self.stop_requested = stop_requested or (lambda: False)
        self.start = start
        if self.config.init != (None if start is None else start.sha256):
            raise ConfigError("a run that starts from an adaptor takes its options: start.config()")

    def fit(self, features: FeatureFolder) -> TrainResult:
        """Trains on the folder's train split (or train + val), validates on val.

        Raises:
            ConfigError: options that do not fit these features.
            DataError, FormatError: features that cannot be used, a checkpoint that cannot be read.
            MismatchError: a checkpoint of another run.
            BudgetError: the memory budget cannot be kept; nothing was done.
            StoppedError: the run was stopped; stops.py says why.
        """
        with np.errstate(all="ignore"):  # what overflows is skipped
            try:
                return _Run(self, features).run()
            finally:
                if self.checkpoints is not None:
                    self.checkpoints.close()


class _Run:
    """One training run."""

    def __init__(self, trainer: Trainer, features: FeatureFolder):
        self.trainer, self.features = trainer, features
        config = trainer.config.settled(features.embed_dim, features.prefix_tokens)
        self.config = config
        checkpoints, start = trainer.checkpoints, trainer.start
        data = prepare(config, features, start)
        self.adaptor_config, self.source, self.val = data.adaptor, data.source, data.val
        self.labels = self.source.labels
        saved = None
        if checkpoints is not None:
            from trainer_lite.provenance import facts_of_run  # not in memory where none is saved

            facts = facts_of_run(config, trainer.threads, trainer.tile, features)
            saved = checkpoints.open(facts)
        keep = data.val is not None and (trainer.on_best is None or checkpoints is not None)
        planner = Planner(
            data.adaptor,
            config,
            data.source,
            data.evaluated,
            keep_best=keep,
            threads=trainer.threads,
        )
        self.plan = self._plan(planner, saved)
        check_limits(self.plan)
        release_code_pages()  # that planning read and a run does not
        self.trained = trained_part(self.adaptor_config, head_only=config.head_only)
        parameters = ParameterSet(self.trained)
        self.fixed: dict[str, Array] = {}  # what is not trained
        if start is None:
            parameters.initialise(config.seed)
        else:
            self.fixed = start.fill(parameters, features.classes)
        best = zeros(parameters.flat.shape, parameters.flat.dtype) if keep else None
        values = {**self.fixed, **parameters.values}
        self.weights = FusedWeights(self.adaptor_config, values, Workspace())
        self.step, self.predictors = build_step(
            self.weights,
            self.source,
            planner.shape(self.plan.tile_images, self.plan.lanes),
            self.plan.step,
        )
        self.optimiser = AdamW(
            parameters.flat,
            self.step.gradient,
            decayed=parameters.decayed,
            weight_decay=config.weight_decay,
        )
        self.state = State(parameters, self.optimiser, best)
        self.epoch_steps = math.ceil(len(self.labels) / config.batch_size)
        self.steps = config.epochs * self.epoch_steps
        if saved is not None:
            self._resume(saved)
        elif start is not None:
            self.weights.refresh()
            start.imprint(parameters, self.predictors[0], self.source, features.classes)
        self.progress = self.state.progress
        self.skips = Skips(self.step, self.labels, config, self.progress, trainer.on_warning)

    def _plan(self, planner: Planner, saved: Generation | None) -> MemoryPlan:
        trainer = self.trainer
        if saved is not None:
            return planned_again(planner, saved.plan, trainer.memory_budget)
        if trainer.tile is None:
            return choose_tile(planner, trainer.memory_budget)
        return planner.plan(trainer.tile, trainer.threads)

    def _resume(self, saved: Generation) -> None:
        state = self.state
        state.restore(saved, self.config.epochs, self.epoch_steps)
        if "best" in state.arrays() and state.best is not None and self.trainer.on_best:
            self.trainer.on_best(self._adaptor(state.best))
        self.trainer.on_warning(f"resumed at step {state.progress.step} of {self.steps}")

    def run(self) -> TrainResult:
        try:
            return self._run()
        except InterruptedRunError as error:
            raise self._stopped(error) from None
        except NotFiniteError as error:
            self.state.progress = self.skips.sound
            raise self._stopped(error) from None
        except BudgetError as error:
            raise self._stopped(BudgetPassedError(str(error))) from None

    def _stopped(self, error: StoppedError) -> StoppedError:
        """Saves what is worth it, and tells the error."""
        if error.learnt:
            error.result = self._result(None)
            error.saved = self._save()
        return error

    def _run(self) -> TrainResult:
        progress, state, on_best = self.progress, self.state, self.trainer.on_best
        progress.start_clock()
        while progress.epoch <= self.config.epochs:
            self._train_epoch()
            self.skips.check()
            score = None if self.val is None else self._evaluate(self.val).score
            report = progress.end_epoch(score)
            if score is not None and (progress.best is None or score > progress.best):
                progress.best = score
                if state.best is not None:
                    np.copyto(state.best, state.parameters.flat)
                if on_best:
                    on_best(self._adaptor())
            if self.trainer.on_epoch:
                self.trainer.on_epoch(report)
        names = self.features.split_names
        test = self._evaluate(self.features.split("test")) if "test" in names else None
        return self._result(test)

    def _result(self, test: Evaluation | None) -> TrainResult:
        """What the run has come to."""
        best, progress = self.state.best, self.state.progress
        return TrainResult(
            adaptor=self._adaptor(),
            best=None if self.trainer.on_best or best is None else self._adaptor(best),
            plan=self.plan,
            history=progress.history,
            test=test,
            steps=progress.step,
            skipped_steps=progress.skipped,
            seconds=progress.seconds,
            peak_rss_bytes=peak_rss_bytes(),
        )

    def _train_epoch(self) -> None:
        """The steps of this epoch that are still to be done."""
        config, progress = self.config, self.progress
        done = progress.step - len(progress.history) * self.epoch_steps
        rows, epoch = len(self.labels), progress.epoch
        batches = epoch_batches(rows, config.batch_size, config.seed, epoch, done)
        for batch, following in with_next(batches):
            self._between_steps()
            if following is not None:
                prefetch(self.source, following)
            self._step(batch)
            progress.spend(training=True)
            check_budget(self.trainer.memory_budget)
        self._between_steps()

    def _step(self, rows: Array) -> None:
        """One batch: an update, or a step that is skipped."""
        config, progress, drop = self.config, self.progress, None
        if config.drop_path > 0:
            blocks, seed = self.adaptor_config.blocks, config.seed
            drop = drop_path_factors(config.drop_path, blocks, len(rows), seed, progress.step)
        loss, correct = self.step.run(rows, self.labels[rows], drop)
        labelled = counted(self.labels[rows])
        norm = gradient_norm(self.step.gradient)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.skips.skip(rows)
            return
        if config.clip_norm is not None:
            clip(self.step.gradient, norm, config.clip_norm)
        self.optimiser.step(learning_rate(progress.step, self.steps, config.rate, config.warmup))
        count = len(rows)
        progress.updated(loss, correct, count, labelled)
        self.skips.passed(rows)
        if self.trainer.on_step:
            self.trainer.on_step(
                StepReport(
                    progress.step,
                    self.steps,
                    count,
                    loss / max(1, labelled),
                    correct / max(1, labelled),
                )
            )

    def _between_steps(self) -> None:
        """Where a run may stop, and its state may be saved."""
        self._check_stop()
        checkpoints = self.trainer.checkpoints
        if checkpoints is not None and checkpoints.due(self.progress.step):
            self._save()
            self.progress.spend(training=True)

    def _check_stop(self) -> None:
        if self.trainer.stop_requested():
            raise InterruptedRunError(f"stopped at step {self.progress.step} of {self.steps}")

    def _save(self) -> bool:
        """Writes a checkpoint of the state as it is; False where there is no folder for it, or no
        room: a run does not end for that."""
        checkpoints, state = self.trainer.checkpoints, self.state
        if checkpoints is None:
            return False
        try:
            checkpoints.save(state.arrays(), state.progress, self.plan.choice)
        except OSError as error:
            self.trainer.on_warning(f"warning: no checkpoint was written: {error}")
            return False
        return True

    def _evaluate(self, source: FeatureSource) -> Evaluation:
        self.weights.refresh()
        found = evaluate(self.predictors, source, self._check_stop)
        self.progress.spend(training=False)
        return found

    def _adaptor(self, flat: Array | None = None) -> Adaptor:
        """An adaptor whose parameters are views of `flat`, or of the run's own."""
        features = self.features
        flat = self.state.parameters.flat if flat is None else flat
        return Adaptor(
            self.adaptor_config,
            {**self.fixed, **views(self.trained, flat)},
            list(features.classes),
            features.backbone,
            features.reference,
            self.config.to_json(),
            features.basis,
        )
