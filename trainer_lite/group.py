"""Members of a sweep that see the same images in the same order: those of one seed."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence

from edge_runtime.config import AdaptorConfig
from edge_runtime.program import Array, Workspace
from edge_runtime.sources import FeatureSource, prefetch
from trainer_lite.batches import drop_path_factors, epoch_batches, with_next
from trainer_lite.budget import check_budget
from trainer_lite.build import StepShape, lane_memory
from trainer_lite.member import Member
from trainer_lite.members import Members
from trainer_lite.members_build import build_members, holds, plan_members
from trainer_lite.members_predictor import MembersPredictor, evaluate_members
from trainer_lite.members_step import MembersStep
from trainer_lite.optim import clip, gradient_norm
from trainer_lite.schedule import learning_rate
from trainer_lite.skipping import Skips
from trainer_lite.stops import NotFiniteError


class Room:
    """What groups run in, one at a time: a step's shape, and memory that each uses again.

    Args:
        check_stop: may raise, to stop. between_steps: the same, and where state may be saved.
    """

    def __init__(
        self,
        source: FeatureSource,
        shape: StepShape,
        memory: Sequence[Array],
        *,
        memory_budget: int | None,
        check_stop: Callable[[], None],
        between_steps: Callable[[], None],
        warn: Callable[[str], None],
    ):
        self.source, self.labels, self.shape, self.memory = source, source.labels, shape, memory
        self.memory_budget, self.warn = memory_budget, warn
        self.check_stop, self.between_steps = check_stop, between_steps

    def build(self, members: Members) -> tuple[MembersStep, list[MembersPredictor]]:
        """A step and its evaluation there; what was built before can no longer be used."""
        plan = plan_members(members, self.source, self.shape)
        gc.collect()  # what was planned on
        if not holds(self.memory, plan):  # fewer members need less, but for odd layouts
            self.memory = ()
            self.memory = lane_memory(plan)
        return build_members(members, self.source, self.shape, plan, self.memory)


class Group:
    """Members of one seed, and the step of those that are left; `enter` before anything else.

    Args:
        members: by rank, the largest first.
    """

    def __init__(self, members: Sequence[Member], room: Room):
        self.members = [member for member in members if member.state is not None]
        self.room = room
        self.config = members[0].config  # all but the grid's axes is everyone's
        self.epoch_steps = math.ceil(len(room.labels) / self.config.batch_size)
        self.steps = self.config.epochs * self.epoch_steps
        self.skips = {
            member.index: Skips(
                OneOf(self, member),
                room.labels,
                member.config,
                member.progress,
                warner(room, member),
            )
            for member in members
        }

    def enter(self) -> None:
        """Builds the step of the members that are left."""
        self.leave()
        states = [member.alive for member in self.members]
        self.weights = Members(
            [member.adaptor for member in self.members],
            [state.parameters.values for state in states],
            Workspace(),
        )
        self.step, self.predictors = self.room.build(self.weights)
        for member, gradient in zip(self.members, self.step.gradients):
            member.take_gradient(gradient)

    def leave(self) -> None:
        """Gives up the step, so that another can be built in its place."""
        self.weights = self.step = self.predictors = None  # type: ignore[assignment]
        gc.collect()  # programs refer to themselves

    def drop(self, dropped: Sequence[tuple[Member, str]], *, diverged: bool) -> None:
        """Goes on without some members, and for which reasons."""
        for member, why in dropped:
            member.drop(why, diverged=diverged)
            if diverged:
                self.room.warn(f"warning: {member.name} is dropped: {why}")
        if dropped:
            self.members = [member for member in self.members if member.state is not None]
            self.leave()

    def train_epoch(self, on_step: Callable[[Sequence[Member]], None]) -> None:
        """The steps of this epoch that are still to be done; members that diverge are dropped."""
        room, config, progress = self.room, self.config, self.members[0].progress
        done = progress.step - len(progress.history) * self.epoch_steps
        rows, size, epoch = len(room.labels), config.batch_size, progress.epoch
        batches = epoch_batches(rows, size, config.seed, epoch, done)
        for batch, following in with_next(batches):
            room.between_steps()
            if following is not None:
                prefetch(room.source, following)
            on_step(self.members)
            self._step(batch)
            if not self.members:
                return
            check_budget(room.memory_budget)
        room.between_steps()
        self._without_failed(self.members, lambda skips: skips.check())

    def evaluate(self, source: FeatureSource) -> None:
        """Ends an epoch with each member's accuracy on `source`."""
        if not self.members:
            return
        self.weights.refresh()
        found = evaluate_members(self.predictors, source, self.room.check_stop)
        failed = []
        for member, evaluation in zip(self.members, found):
            if evaluation is None:
                failed.append((member, "its logits are not finite; try a lower --lr"))
            else:
                member.progress.end_epoch(evaluation.accuracy)
        self.drop(failed, diverged=True)
        if failed and self.members:
            self.enter()

    def _step(self, rows: Array) -> None:
        """One batch: an update of each member, or a step that it skips."""
        config, drop = self.config, None
        done = self.members[0].progress.step
        if config.drop_path > 0:
            blocks = self.members[0].adaptor.blocks
            drop = drop_path_factors(config.drop_path, blocks, len(rows), config.seed, done)
        outcomes = self.step.run(rows, self.room.labels[rows], drop)
        failed = []
        for index, (member, (loss, correct)) in enumerate(zip(self.members, outcomes)):
            gradient = self.step.gradient(index)
            norm = gradient_norm(gradient)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                failed.append(member)
                continue
            if config.clip_norm is not None:
                clip(gradient, norm, config.clip_norm)
            rate = learning_rate(done, self.steps, member.config.rate, config.warmup)
            member.alive.optimiser.step(rate)
            member.progress.updated(loss, correct, len(rows), len(rows))
            self.skips[member.index].passed(rows)
        self._without_failed(failed, lambda skips: skips.skip(rows))

    def _without_failed(self, members: Sequence[Member], judge: Callable[[Skips], None]) -> None:
        """Drops those of the members that `judge` finds beyond help."""
        failed = []
        for member in members:
            try:
                judge(self.skips[member.index])
            except NotFiniteError as error:
                failed.append((member, str(error)))
        self.drop(failed, diverged=True)
        if failed and self.members:
            self.enter()


class OneOf:
    """A member's own step, as Skips asks for one: that of its group, seen from this member."""

    def __init__(self, group: Group, member: Member):
        self.group, self.member = group, member
        self._gradient: Array | None = None

    @property
    def config(self) -> AdaptorConfig:
        return self.member.adaptor

    def run(self, rows: Array, labels: Array, drop: Array | None = None) -> tuple[float, int]:
        """One batch of all members; the outcome of this one."""
        index, step = self.group.members.index(self.member), self.group.step
        outcome = step.run(rows, labels, drop)[index]
        self._gradient = step.gradient(index)
        return outcome

    @property
    def gradient(self) -> Array:
        assert self._gradient is not None
        return self._gradient


def warner(room: Room, member: Member) -> Callable[[str], None]:
    """Has a warning say whose it is."""
    return lambda message: room.warn(f"{message} ({member.name})")
