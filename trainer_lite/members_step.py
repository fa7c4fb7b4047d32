"""One training step of several members."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.program import Array, Program, Workspace
from edge_runtime.sources import FeatureSource
from trainer_lite.gradients import GradientAssembly
from trainer_lite.lane import Batch, Pass, Reading, TileLane
from trainer_lite.members import READ_NORMS, Members, Named, Shared
from trainer_lite.step import outcome_of, tiles
from trainer_lite.sums import HeadFactors, TokenSums
from trainer_lite.threads import side_by_side


class MembersStep:
    """Loss and exact gradient of one batch for each member; compare TrainingStep.

    `run` does all that tiles do, then `gradient` makes one member's at a time: they share a buffer.

    Args:
        batch: images of the largest batch. tile: images a pass.
        others: workspaces of lanes that run beside the first, each in a thread.
    """

    def __init__(
        self,
        members: Members,
        source: FeatureSource,
        workspace: Workspace,
        *,
        batch: int,
        tile: int,
        smoothing: float = 0.0,
        drop_path: float = 0.0,
        others: Sequence[Workspace] = (),
    ):
        self.members, self.source, self.workspace = members, source, workspace
        self.tile_images, self.smoothing, self.drop_path = min(tile, batch), smoothing, drop_path
        self.before = Program()
        members.emit_refresh(self.before)
        self.heads = []
        for index, weights in enumerate(members.weights):
            head = HeadFactors(weights.config, Named(workspace, f"{index}."), batch)
            head.emit_clear(self.before)
            self.heads.append(head)
        self.lanes = [MembersLane(self, space) for space in (workspace, *others)]
        for lane in self.lanes:
            lane.tile_of(self.tile_images)  # the largest first: it sets the sizes
        self.after: list[Program] = []
        self.gradients = []
        for index, weights in enumerate(members.weights):
            program = Program()
            first, *rest = (lane.sums[index] for lane in self.lanes)
            for sums in rest:
                first.emit_add(program, sums)
            assembly = GradientAssembly(weights, first, self.heads[index], workspace)
            assembly.emit(program)
            self.after.append(program)
            self.gradients.append(assembly.flat)

    def programs(self, lane: int = 0) -> list[Program]:
        """In the order in which they run: before, a lane's clear and tile, each member's after."""
        chosen = self.lanes[lane]
        return [self.before, chosen.clear, chosen.tile_of(self.tile_images).program, *self.after]

    def run(self, rows: Array, labels: Array, drop: Array | None = None) -> list[tuple[float, int]]:
        """One batch: (summed loss, images classified rightly) of each member.

        Args:
            rows: (batch,) indices to read. labels: (batch,) class indices.
            drop: drop-path factors (blocks, batch); needed if and only if drop_path > 0.
        """
        self.before.run()
        batch, parts = Batch(rows, labels, drop, len(rows)), tiles(len(rows), self.tile_images)
        count = len(self.lanes)
        side_by_side([(lane.run, batch, parts[i::count]) for i, lane in enumerate(self.lanes)])
        return self.outcomes(labels)

    def outcomes(self, labels: Array) -> list[tuple[float, int]]:
        """(summed loss, images classified rightly) of the batch whose tiles have run."""
        return [outcome_of(head, labels, self.smoothing) for head in self.heads]

    def gradient(self, index: int) -> Array:
        """A member's gradient of the batch that has run, flat; it holds until the next one's."""
        self.after[index].run()
        return self.gradients[index]


class MembersLane(TileLane["MembersTile"]):
    """Runs tiles of every member."""

    def __init__(self, step: MembersStep, workspace: Workspace):
        super().__init__(workspace)
        self.step = step
        self.sums = []
        for index, weights in enumerate(step.members.weights):
            self.sums.append(TokenSums(weights.config, Named(workspace, f"{index}.")))
            self.sums[-1].emit_clear(self.clear)

    def make_tile(self, images: int) -> MembersTile:
        return MembersTile(self, images)


class MembersTile:
    """The program for a tile of so many images: read, the product of all, each member's pass."""

    def __init__(self, lane: MembersLane, images: int):
        step, workspace, self.program = lane.step, lane.workspace, Program()
        members = step.members
        self.reading = Reading(
            members.config,
            step.source,
            workspace,
            images,
            norms=READ_NORMS,
            drop_path=step.drop_path > 0,
        )
        shared = Shared(members, workspace, images)
        self.passes = [
            Pass(
                weights,
                shared.spaces[i],
                images,
                lane.sums[i],
                step.heads[i],
                source=step.source,
                smoothing=step.smoothing,
                drop=self.reading.drop,
            )
            for i, weights in enumerate(members.weights)
        ]
        self.reading.emit(self.program)
        shared.emit(self.program, self.passes[0].forward)
        for one in self.passes:
            shared.emit_forward(self.program, one.forward)
            one.emit_after_forward(self.program)

    def set(self, batch: Batch, part: slice) -> None:
        """What the next run works on."""
        self.reading.set(batch, part)
        for one in self.passes:
            one.set(batch, part)
