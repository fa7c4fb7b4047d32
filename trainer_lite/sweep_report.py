"""What a sweep leaves: the best adaptor and its history, and a report of every run as JSON and as a
table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime import formats
from edge_runtime.adaptor import Adaptor
from edge_runtime.atomic import refuse_unwritable
from edge_runtime.metrics import Evaluation
from trainer_lite.budget import MemoryPlan
from trainer_lite.checkpoint import NAMES
from trainer_lite.halving import Round
from trainer_lite.history import history_path, write_history
from trainer_lite.member import Member
from trainer_lite.reports import TrainResult
from trainer_lite.stops import StoppedError


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep. `best` is the adaptor of the member and epoch with the best accuracy on
    val; of two as good, that of the earlier epoch, then of the earlier member. `test` is its."""

    best: Adaptor
    winner: Member
    members: list[Member]
    rounds: list[Round]
    test: Evaluation | None
    seconds: float
    peak_rss_bytes: int
    plan: MemoryPlan


class SweepFiles:
    """`best.safetensors`, `best.history.json` and `sweep.json` of a folder; each appears whole, or
    not at all."""

    def __init__(self, folder: Path, *, threads: int = 1, memory_budget: int | None = None):
        self.best, self.report = folder / "best.safetensors", folder / "sweep.json"
        self.history = history_path(self.best)
        self.threads, self.memory_budget = threads, memory_budget
        self._members: Sequence[Member] = ()
        self._any_best = False

    def on_best(self, adaptor: Adaptor) -> None:
        """Keeps the best so far. A report of another sweep goes before this one's first."""
        if not self._any_best:
            for stale in (self.report, self.history):
                stale.unlink(missing_ok=True)
        adaptor.save(self.best)
        self._any_best = True

    def on_epoch(self, members: Sequence[Member]) -> None:
        """Notes who takes part."""
        self._members = members

    def refuse(self, *, force: bool) -> None:
        """Says before the work begins that they could not be written. Where there is a checkpoint,
        it is that which is refused or replaced, and they go with it."""
        saved = any((self.best.parent / name).exists() for name in NAMES)
        for path in (self.best, self.history, self.report):
            refuse_unwritable(path, force=force or saved)

    def stopped(self, error: StoppedError) -> str:
        """Writes how far it came; what to add to the message."""
        more = "; --resume goes on" if error.saved else ""
        if not self._any_best:
            return more
        members = described(self._members)
        self._write({"finished": False, "stopped": str(error), "members": members})
        return f"; the best so far is {self.best}, what was seen {self.report}{more}"

    def finished(self, result: SweepResult) -> formats.Json:
        """Writes the report of a finished sweep, and the history of its best run; returns it."""
        content = {"finished": True, **summarise(result)}
        self._write(content)
        progress = result.winner.progress
        run = TrainResult(
            adaptor=result.best,
            best=None,
            history=progress.history,
            test=result.test,
            steps=progress.step,
            skipped_steps=progress.skipped,
            seconds=result.seconds,
            peak_rss_bytes=result.peak_rss_bytes,
            plan=result.plan,
        )
        budget = self.memory_budget
        write_history(
            self.history, {"best": self.best}, run, threads=self.threads, memory_budget=budget
        )
        return content

    def _write(self, content: formats.Json) -> None:
        formats.write_json(self.report, {"format": formats.SWEEP, "version": 1, **content})


def described(members: Sequence[Member]) -> list[formats.Json]:
    """Every run, in the order of the grid."""
    return [{"name": member.name, **member.to_json()} for member in members]


def summarise(result: SweepResult) -> formats.Json:
    """The sweep as one JSON object; accuracies are fractions."""
    found = result.winner.to_json()
    best = {
        "member": result.winner.index,
        "options": found["options"],
        "epoch": found["best_epoch"],
        "val_accuracy": found["best_val_accuracy"],
        "test_accuracy": None if result.test is None else result.test.accuracy,
    }
    return {
        "best": best,
        "members": described(result.members),
        "halved_after_epochs": [one.last for one in result.rounds[:-1]],
        "epochs": result.rounds[-1].last,
        "training": result.winner.config.to_json(),
        "seconds": result.seconds,
        "peak_rss_bytes": result.peak_rss_bytes,
        "predicted_peak_rss_bytes": result.plan.predicted_peak_rss_bytes,
        "arena_bytes": result.plan.arena_bytes,
        "tile_images": result.plan.tile_images,
    }


def table(content: dict[str, Any]) -> list[str]:
    """Lines for people: the runs, the best on val first."""
    best, members = content["best"], content["members"]
    order = sorted(
        range(len(members)),
        key=lambda i: (i != best["member"], -(members[i]["best_val_accuracy"] or 0.0), i),
    )
    width = max(len(member["name"]) for member in members)
    lines = [f"{'run':{width}}  best val  epoch  trained"]
    for index in order:
        member = members[index]
        val, epoch = member["best_val_accuracy"], member["best_epoch"]
        figures = "       -      -" if val is None else f"{val:8.4f}  {epoch:5}"
        trained = str(len(member["val_accuracy"])) + (" (diverged)" if member["diverged"] else "")
        line = f"{member['name']:{width}}  {figures}  {trained:>7}"
        if index == best["member"]:
            test = best["test_accuracy"]
            line += "  <- best" + ("" if test is None else f", test {test:.4f}")
        lines.append(line)
    return lines
