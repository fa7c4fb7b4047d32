"""All that changes as a sweep runs, which is what its checkpoint holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime import formats
from edge_runtime.allocate import zeros
from edge_runtime.errors import FormatError
from edge_runtime.program import Array
from trainer_lite.generation import Generation
from trainer_lite.member import Member
from trainer_lite.progress import Progress

Winner = tuple[float, int, int]  # accuracy on val, -epoch, -index: the larger, the better


@dataclass
class SweepProgress:
    """Where every member stands; `ended` and `diverged` are as a Member's.

    A sweep's own place follows: the group at work is that whose members are behind, and the round
    is told by how many epochs they have.
    """

    members: list[Progress]
    ended: list[str | None]
    diverged: list[bool]
    winner: Winner | None
    seconds: float

    @property
    def step(self) -> int:
        """Steps of all members together."""
        return sum(progress.step for progress in self.members)

    def to_json(self) -> formats.Json:
        """All but the histories, which `history_array` gives."""
        members = [
            {**progress.to_json(), "epochs": len(progress.history), "ended": ended, "diverged": bad}
            for progress, ended, bad in zip(self.members, self.ended, self.diverged)
        ]
        winner = None if self.winner is None else list(self.winner)
        return {"members": members, "winner": winner, "seconds": self.seconds}

    def history_array(self) -> Array:
        """Those of all members, one below the other."""
        return np.concatenate([progress.history_array() for progress in self.members])

    @classmethod
    def from_json(cls, content: formats.Json, history: Array, path: Any) -> SweepProgress:
        """Reads what `to_json` and `history_array` gave; FormatError where it cannot be."""
        members, ended, diverged, start = [], [], [], 0
        for entry in formats.field(content, "members", list, path):
            if not isinstance(entry, dict):
                raise FormatError(f"{path}: a member is no JSON object")
            stop = start + formats.whole(entry, "epochs", 0, path)
            members.append(Progress.from_json(entry, history[start:stop], path))
            ended.append(formats.field(entry, "ended", (str, type(None)), path))
            diverged.append(formats.field(entry, "diverged", bool, path))
            start = stop
        if start != len(history):
            raise FormatError(f"{path}: its members and histories do not agree")
        seconds = float(formats.field(content, "seconds", (int, float), path))
        return cls(members, ended, diverged, _winner(content, len(members), path), seconds)


def _winner(content: formats.Json, members: int, path: Any) -> Winner | None:
    found = formats.field(content, "winner", (list, type(None)), path)
    if found is None:
        return None
    if len(found) == 3 and all(isinstance(part, (int, float)) for part in found):
        accuracy, epoch, index = float(found[0]), int(found[1]), int(found[2])
        if 0 <= -index < members:
            return accuracy, epoch, index
    raise FormatError(f"{path}: its winner is none of its members")


class SweepState:
    """Members, and the parameters of the best epoch of any so far.

    `winner` says which that is. `best` is as long as the most parameters of a member.
    """

    def __init__(self, members: Sequence[Member]):
        self.members = list(members)
        largest = max(member.adaptor.parameter_count() for member in members)
        self.best = zeros((largest,), np.float32)
        self.winner: Winner | None = None
        self.seconds = 0.0

    def progress(self) -> SweepProgress:
        """How far all have come."""
        members = self.members
        return SweepProgress(
            [member.progress for member in members],
            [member.ended for member in members],
            [member.diverged for member in members],
            self.winner,
            self.seconds,
        )

    def arrays(self) -> dict[str, Array]:
        """The vectors by name, of the members that are left; the best only once there is one."""
        arrays = {
            f"{member.index}.{name}": array
            for member in self.members
            if member.state is not None
            for name, array in member.state.arrays().items()
        }
        return arrays if self.winner is None else {**arrays, "best": self.best}

    def restore(self, saved: Generation, epochs: int, epoch_steps: int) -> None:
        """Takes over a saved state.

        Raises:
            FormatError: it cannot be one of this sweep.
        """
        found: SweepProgress = saved.progress
        if len(found.members) != len(self.members):
            raise FormatError(f"{saved.path}: it is of {len(found.members)} members")
        for member, progress, ended, diverged in zip(
            self.members, found.members, found.ended, found.diverged
        ):
            behind = progress.step - len(progress.history) * epoch_steps
            if len(progress.history) > epochs or not 0 <= behind <= epoch_steps:
                raise FormatError(f"{saved.path}: a member's steps and epochs do not agree")
            member.go_on(progress)
            if ended is not None:
                member.drop(ended, diverged=diverged)
        self.winner, self.seconds = found.winner, found.seconds
        saved.read(self.arrays())
