"""Trains adaptors of a grid of options side by side, and drops the worse half at set points."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.adaptor import Adaptor
from edge_runtime.code_pages import release_code_pages
from edge_runtime.errors import BudgetError, ConfigError
from edge_runtime.features import FeatureFolder
from edge_runtime.memory import peak_rss_bytes
from edge_runtime.metrics import Evaluation
from edge_runtime.program import Workspace
from trainer_lite.budget import check_limits, choose_tile, planned_again
from trainer_lite.build import lane_memory
from trainer_lite.config import TrainConfig
from trainer_lite.data import prepare
from trainer_lite.group import Group, Room
from trainer_lite.halving import Round, grid, rounds, score, spans
from trainer_lite.member import Member, names_of
from trainer_lite.members import Members
from trainer_lite.members_predictor import evaluate_members
from trainer_lite.parameters import views
from trainer_lite.stops import BudgetPassedError, InterruptedRunError, NotFiniteError
from trainer_lite.sweep_budget import SweepPlanner, by_rank, with_rank
from trainer_lite.sweep_report import SweepResult
from trainer_lite.sweep_state import SweepState

if TYPE_CHECKING:
    from trainer_lite.checkpoint import Checkpoints
    from trainer_lite.generation import Generation


class Sweep:
    """Trains the members of a grid.

    Members of one seed see the same images in the same order, and share each read; seeds run one
    after the other. So every member is what a run of its own options gives, to rounding.

    Args:
        config: the options that all share.
        axes: values by the names of options: lr, rank, seed, weight_decay.
        halving: drop the worse half at set points; else every member runs to its end.
        on_step: called with the runs that a step was done for, or spared, and a note for people.
        on_epoch: called with the members as they stand after an epoch of some of them.
        on_best: takes the adaptor whenever validation got better, as views that change later.
        on_warning: takes messages for people.
        memory_budget: bytes that the whole process may take (peak RSS), or None.
        threads: tiles that run side by side, as far as the budget allows.
        checkpoints: where the sweep's state is kept (made with kind=SweepProgress); one that goes
            on from there gives the same bits as one that nothing interrupted.
        stop_requested: asked between steps, and while it evaluates; the sweep then saves its state
            and stops.
    """

    def __init__(
        self,
        config: TrainConfig,
        axes: Mapping[str, Sequence[Any]],
        *,
        halving: bool = True,
        on_step: Callable[[int, str], None] | None = None,
        on_epoch: Callable[[Sequence[Member]], None] | None = None,
        on_best: Callable[[Adaptor], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
        memory_budget: int | None = None,
        threads: int = 1,
        checkpoints: Checkpoints | None = None,
        stop_requested: Callable[[], bool] | None = None,
    ):
        self.configs, self.axes, self.halving = grid(config, axes), dict(axes), halving
        self.rounds = rounds(len(self.configs), config.epochs, halving)
        self.on_step = on_step or (lambda steps, note: None)
        self.on_epoch = on_epoch or (lambda members: None)
        self.on_best = on_best or (lambda adaptor: None)
        self.on_warning = on_warning or (lambda message: None)
        self.memory_budget, self.threads, self.checkpoints = memory_budget, threads, checkpoints
        self.stop_requested = stop_requested or (lambda: False)

    @property
    def member_epochs(self) -> int:
        """Epochs of all members together, if none diverges."""
        return sum(epochs * keep for epochs, keep in spans(len(self.configs), self.rounds))

    def fit(self, features: FeatureFolder) -> SweepResult:
        """Trains on the folder's train split and chooses on val.

        Raises:
            ConfigError: options that do not fit these features, or no val split.
            DataError, FormatError: features that cannot be used, a checkpoint that cannot be read.
            MismatchError: a checkpoint of another sweep.
            BudgetError: the memory budget cannot be kept; nothing was done.
            StoppedError: it was stopped, passed its budget, or every member diverged.
        """
        with np.errstate(all="ignore"):  # what overflows is skipped
            try:
                return _Run(self, features).run()
            finally:
                if self.checkpoints is not None:
                    self.checkpoints.close()


class _Run:
    """One sweep."""

    def __init__(self, sweep: Sweep, features: FeatureFolder):
        self.sweep, self.features = sweep, features
        shape = (features.embed_dim, features.prefix_tokens)
        configs = [config.settled(*shape) for config in sweep.configs]
        if "val" not in features.split_names or configs[0].fit_on != "train":
            raise ConfigError(
                "a sweep chooses on the val split; extract a folder that has one, and fit on train"
            )
        if configs[0].kind == "segmentation":
            raise ConfigError("a sweep trains classifiers; give kind segmentation to `train`")
        data = prepare(configs[0], features)
        assert data.val is not None
        self.val = data.val
        saved = None
        if sweep.checkpoints is not None:
            from trainer_lite.provenance import facts_of_sweep  # as in a single run

            saved = sweep.checkpoints.open(
                facts_of_sweep(configs, sweep.halving, sweep.threads, features)
            )
        adaptors = [with_rank(data.adaptor, config) for config in configs]
        order = by_rank(adaptors)
        seeds = list(dict.fromkeys(config.seed for config in configs))
        parts = [[i for i in order if configs[i].seed == seed] for seed in seeds]
        group = [adaptors[index] for index in parts[0]]
        planner = SweepPlanner(
            group, len(seeds), configs[0], data.source, data.evaluated, sweep.threads
        )
        if saved is not None:
            self.plan = planned_again(planner, saved.plan, sweep.memory_budget)
        else:
            self.plan = choose_tile(planner, sweep.memory_budget)
        check_limits(self.plan)
        release_code_pages()  # that planning read and a run does not
        names = names_of(configs)
        self.members = [Member(i, names[i], configs[i], adaptors[i]) for i in range(len(configs))]
        self.state = SweepState(self.members)
        epoch_steps = math.ceil(len(data.source.labels) / configs[0].batch_size)
        self.left = sweep.member_epochs * epoch_steps  # steps, for the bar
        if saved is not None:
            self._resume(saved, epoch_steps)
        self.room = Room(
            data.source,
            planner.shape(self.plan.tile_images, self.plan.lanes),
            lane_memory(self.plan.step),
            memory_budget=sweep.memory_budget,
            check_stop=self._check_stop,
            between_steps=self._between_steps,
            warn=sweep.on_warning,
        )
        self.groups = [Group([self.members[i] for i in part], self.room) for part in parts]

    def _resume(self, saved: Generation, epoch_steps: int) -> None:
        state, sweep = self.state, self.sweep
        state.restore(saved, sweep.configs[0].epochs, epoch_steps)
        if state.winner is not None:
            sweep.on_best(self._adaptor())
            sweep.on_epoch(self.members)
        done = state.progress().step
        sweep.on_warning(f"resumed after {done} steps of all runs together")
        sweep.on_step(done, "")
        self.left -= done

    def run(self) -> SweepResult:
        self._clock = time.monotonic()
        try:
            for now in self.sweep.rounds:
                for group in self.groups:
                    self._train(group, now.last)
                self._halve(now)
            self.sweep.on_step(self.left, "")  # what was spared by members that diverged
            test = self._test()
        except InterruptedRunError as error:
            error.saved = self._save()
            raise
        except BudgetError as error:
            passed = BudgetPassedError(str(error))
            passed.saved = self._save()
            raise passed from None
        self._spend()
        return SweepResult(
            self._adaptor(),
            self._winner,
            self.members,
            self.sweep.rounds,
            test,
            self.state.seconds,
            peak_rss_bytes(),
            self.plan,
        )

    @property
    def _winner(self) -> Member:
        assert self.state.winner is not None
        return self.members[-self.state.winner[2]]

    def _train(self, group: Group, last: int) -> None:
        """The group's epochs of this round."""
        if not group.members or group.members[0].progress.epoch > last:
            return
        group.enter()
        while group.members and group.members[0].progress.epoch <= last:
            group.train_epoch(self._on_step)
            group.evaluate(self.val)
            self._keep_best(group)
            self.sweep.on_epoch(self.members)
        group.leave()
        if not any(other.members for other in self.groups):
            raise NotFiniteError(
                f"every member was dropped: {self.members[0].name}: {self.members[0].ended}",
                learnt=False,
            )

    def _keep_best(self, group: Group) -> None:
        """Takes over the parameters of the best so far, if it is in this group's last epoch."""
        found = None
        for member in group.members:
            report = member.progress.history[-1]
            key = (report.val_accuracy or 0.0, -report.epoch, -member.index)
            if self.state.winner is None or key > self.state.winner:
                self.state.winner, found = key, member
        if found is not None:
            flat = found.alive.parameters.flat
            np.copyto(self.state.best[: flat.size], flat)
            self.sweep.on_best(self._adaptor())

    def _halve(self, now: Round) -> None:
        """Drops all but the best of those that are left."""
        alive = [member for group in self.groups for member in group.members]
        alive.sort(key=lambda member: (score(member.progress.history), -member.index), reverse=True)
        for group in self.groups:
            worse = [member for member in group.members if member in alive[now.keep :]]
            why = f"not among the best {now.keep} on val after {now.last} epochs"
            group.drop([(member, why) for member in worse], diverged=False)

    def _test(self) -> Evaluation | None:
        """The best adaptor on the test split, where there is one."""
        if "test" not in self.features.split_names:
            return None
        adaptor = self._adaptor()
        weights = Members([adaptor.config], [adaptor.parameters], Workspace())
        _, predictors = self.room.build(weights)
        weights.refresh()
        source = self.features.split("test")
        return evaluate_members(predictors, source, self._check_stop)[0]

    def _on_step(self, members: Sequence[Member]) -> None:
        first, count = members[0].progress, len(members)
        winner = self.state.winner
        best = "" if winner is None else f", best val {winner[0]:.3f}"
        self.sweep.on_step(count, f"{count} runs, epoch {first.epoch}{best}")
        self.left -= count

    def _check_stop(self) -> None:
        if self.sweep.stop_requested():
            done = self.state.progress().step
            raise InterruptedRunError(f"stopped after {done} steps of all runs together")

    def _between_steps(self) -> None:
        """Where a sweep may stop, and its state may be saved."""
        self._check_stop()
        checkpoints = self.sweep.checkpoints
        if checkpoints is not None and checkpoints.due(self.state.progress().step):
            self._save()

    def _spend(self) -> None:
        """Counts the time since it was last counted."""
        now = time.monotonic()
        self.state.seconds += now - self._clock
        self._clock = now

    def _save(self) -> bool:
        """Writes a checkpoint of the state as it is; False where there is no folder for it, or no
        room: a sweep does not end for that."""
        checkpoints, state = self.sweep.checkpoints, self.state
        if checkpoints is None:
            return False
        self._spend()
        try:
            checkpoints.save(state.arrays(), state.progress(), self.plan.choice)
        except OSError as error:
            self.sweep.on_warning(f"warning: no checkpoint was written: {error}")
            return False
        return True

    def _adaptor(self) -> Adaptor:
        """The best so far, as views of `best`."""
        features, member = self.features, self._winner
        count = member.adaptor.parameter_count()
        return Adaptor(
            member.adaptor,
            views(member.adaptor, self.state.best[:count]),
            list(features.classes),
            features.backbone,
            features.reference,
            member.config.to_json(),
            features.basis,
        )
