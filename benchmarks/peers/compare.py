"""The comparison: equal gradients first, then steps in turns, then memory."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.environments import Environment, Installed
from benchmarks.peers.process import PeerError, PeerProcess
from benchmarks.timing import median_ratio
from edge_runtime import tensorfile

Array = np.ndarray[Any, Any]
Gradients = tuple[float, dict[str, Array]]  # the loss, and the gradient of every parameter

TOLERANCE = 1e-4  # relative; of the loss and of every gradient
WARM_UP_STEPS = 2
# A turn's first step is not timed: it pays for what the peer before it left, such as cold caches
# and freed memory that the system is still taking back (40 ms of ours after a step of JAX).
UNTIMED_STEPS = 1


@dataclass(frozen=True)
class Peer:
    """One way to train. One without gradients (the floor) is only timed.

    `graph_environment`: where the peer's graph is made, before its process starts, if it needs one.
    """

    name: str
    title: str
    environment: Environment
    has_gradients: bool = True
    graph_environment: Environment | None = None


@dataclass
class Row:
    """What came of one peer; `reason` says why there is no time, where there is none.

    `seconds` has an entry a turn; the differences are relative to ours: the largest of loss and
    gradients before the first step, and that of the loss after the last.
    """

    peer: Peer
    reason: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    gradient_difference: float | None = None
    final_loss_difference: float | None = None
    seconds: list[float] = field(default_factory=list)
    peak_rss_bytes: int | None = None
    installed: Installed | None = None

    @property
    def step_seconds(self) -> float | None:
        """Median of the turns."""
        return statistics.median(self.seconds) if self.seconds else None

    def ratio_to(self, other: Row | None) -> float | None:
        """Median ratio of steps of the same turn; None where one of both has no time."""
        if other is None or not self.seconds or not other.seconds:
            return None
        return median_ratio(self.seconds, other.seconds)


class Comparison:
    """Peers trained side by side. The first is ours: the others' gradients must equal its.

    Args:
        install: gives a peer's environment. start: its process, from the peer and its environment.
        folder: for gradients. tell: takes lines of progress.
    """

    def __init__(
        self,
        *,
        install: Callable[[Environment], Installed],
        start: Callable[[Peer, Installed], PeerProcess],
        folder: Path,
        tell: Callable[[str], None],
    ):
        self.install, self.start, self.folder, self.tell = install, start, folder, tell

    def run(self, peers: list[Peer], turns: int) -> list[Row]:
        """A row a peer, in their order.

        Raises:
            PeerError: ours has no gradients to compare with; what befalls others is in their rows.
        """
        rows = [Row(peer) for peer in peers]
        running: list[tuple[Row, PeerProcess]] = []
        reference: Gradients | None = None
        with contextlib.ExitStack() as stack:
            for row in rows:
                with reason_in(row):
                    process = self._started(row)
                    stack.callback(process.close)
                    if row.peer.has_gradients:
                        found = self._gradients(row, process)
                        reference = reference or found
                        check_gradients(row, reference, found)
                    process.step(WARM_UP_STEPS)
                    running.append((row, process))
                if reference is None:
                    raise PeerError(f"{row.peer.title}: {row.reason}")
            for turn in range(turns):
                self.tell(f"turn {turn + 1} of {turns}")
                for row, process in running:
                    if row.reason is None:
                        with reason_in(row):
                            process.step(UNTIMED_STEPS)
                            row.seconds.append(process.step())
            self.tell("memory, and the loss after the last step")
            self._finish(running)
        return rows

    def _started(self, row: Row) -> PeerProcess:
        """The peer's process, in its environment, ready to be asked."""
        self.tell(f"{row.peer.title}: environment")
        row.installed = self.install(row.peer.environment)
        self.tell(f"{row.peer.title}: start and gradients")
        process = self.start(row.peer, row.installed)
        row.versions = process.versions
        return process

    def _gradients(self, row: Row, process: PeerProcess) -> Gradients:
        path = self.folder / f"{row.peer.name}.safetensors"
        loss = process.gradients(path)
        return loss, tensorfile.read(path)[0]

    def _finish(self, running: list[tuple[Row, PeerProcess]]) -> None:
        """Peak memory, and whether all have trained alike."""
        ours: float | None = None
        for row, process in running:
            if row.reason is None:
                with reason_in(row):
                    row.peak_rss_bytes = process.peak_rss_bytes()
                    if row.peer.has_gradients:
                        loss, _ = self._gradients(row, process)
                        ours = ours or loss
                        row.final_loss_difference = abs(loss - ours) / abs(ours)


@contextlib.contextmanager
def reason_in(row: Row) -> Iterator[None]:
    """A peer that fails keeps the reason, and no time."""
    try:
        yield
    except PeerError as error:
        row.reason = str(error)
        row.seconds = []


def check_gradients(row: Row, reference: Gradients, found: Gradients) -> None:
    """Notes the largest difference; PeerError where it is no rounding."""
    row.gradient_difference = largest_difference(reference, found)
    if not row.gradient_difference <= TOLERANCE:
        raise PeerError(
            f"refused: gradients differ from ours by {row.gradient_difference:.1e} relative, "
            f"more than {TOLERANCE:g}"
        )


def largest_difference(reference: Gradients, found: Gradients) -> float:
    """The largest relative difference of the loss and of any parameter's gradient.

    A gradient's is the largest difference of an entry by the largest entry. Gradients that are
    missing, superfluous, of another shape or not finite differ infinitely.
    """
    (loss, gradients), (other_loss, others) = reference, found
    shapes = {name: g.shape for name, g in gradients.items()}
    if shapes != {name: g.shape for name, g in others.items()}:
        return float("inf")
    worst = relative(np.array(loss), np.array(other_loss))
    return max([worst, *(relative(g, others[name]) for name, g in gradients.items())])


def relative(ours: Array, theirs: Array) -> float:
    """Largest difference by largest entry; infinite where it is no number."""
    difference = float(np.abs(ours - theirs).max())
    if difference == 0:
        return 0.0
    with np.errstate(divide="ignore"):
        ratio = difference / np.abs(ours).max()
    return float(ratio) if np.isfinite(ratio) else float("inf")
