"""The folder that a run is saved to, in two generations: the older one outlives whatever happens
to the newer."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import atomic
from edge_runtime.errors import ConfigError, EdgeError, FormatError
from trainer_lite.generation import Generation, Position, load, write
from trainer_lite.progress import Progress
from trainer_lite.provenance import Facts

Array = np.ndarray[Any, Any]

NAMES = ("checkpoint-a.safetensors", "checkpoint-b.safetensors")
DEFAULT_SECONDS = 60.0
DEFAULT_SHARE = 0.02  # of the run's time, at most, where nobody said how often


@dataclass(frozen=True)
class Every:
    """When to save: every so many steps, or seconds. Neither: once a minute, and more seldom
    where saving would take more than a fiftieth of the time."""

    steps: int | None = None
    seconds: float | None = None


class Checkpoints:
    """The folder that a run is saved to.

    Args:
        resume: go on from the newest generation, if there is one.
        force: without `resume`, forget what is there; else that is refused.
        warn: takes messages on what was damaged and what was resumed.
        kind: what says how far a run has come. option: what names the folder, for people.
    """

    def __init__(
        self,
        folder: str | Path,
        every: Every | None = None,
        *,
        resume: bool = False,
        force: bool = False,
        warn: Callable[[str], None] | None = None,
        kind: Any = Progress,
        option: str = "--checkpoint",
    ):
        self.folder, self.every = Path(folder), every or Every()
        self.resume, self.force, self.warn = resume, force, warn or (lambda message: None)
        self.kind, self.option = kind, option
        self.written, self.seconds = 0, 0.0
        self._longest = 0.0
        self._started = self._last = time.monotonic()
        self._last_step = 0
        self._slot = 0
        self._lock: int | None = None
        self._facts: Facts = {}

    def open(self, facts: Facts) -> Generation | None:
        """Makes the folder if need be and claims it for this process; the generation to go on from.

        Args:
            facts: of the run that is to be saved here.

        Raises:
            ConfigError: it cannot be a folder to write to, another run has it, or it holds
                checkpoints that are neither to be resumed nor to be replaced.
            FormatError: there are generations and none of them is sound.
            MismatchError: they are of another run.
        """
        self._claim()
        try:
            return self._open(facts)
        except BaseException:
            self.close()
            raise

    def _open(self, facts: Facts) -> Generation | None:
        for name in NAMES:
            atomic.remove_leftovers(self.folder / name)
        present = [name for name in NAMES if (self.folder / name).exists()]
        found = None
        if self.resume:
            found = self._newest(present)
        elif self.force:
            self.clear()
        elif present:
            raise ConfigError(
                f"{self.folder} holds the checkpoint of a run; --resume goes on from it, --force "
                f"starts afresh"
            )
        self._facts = facts
        if found is not None:
            found.check(facts)
            self._slot = 1 - NAMES.index(found.path.name)
            self._last_step = found.progress.step
        self._started = self._last = time.monotonic()
        return found

    def due(self, step: int) -> bool:
        """Whether it is time to save, after `step` steps."""
        every, now = self.every, time.monotonic()
        if every.steps is not None:
            return step - self._last_step >= every.steps
        if every.seconds is not None:
            return now - self._last >= every.seconds
        cost = self.seconds + self._longest
        allowed = DEFAULT_SHARE * (now - self._started)
        return now - self._last >= DEFAULT_SECONDS and cost <= allowed

    def save(self, arrays: Mapping[str, Array], progress: Position, plan: dict[str, int]) -> None:
        """Writes a generation in place of the older one; OSError where it cannot be."""
        began, path = time.monotonic(), self.folder / NAMES[self._slot]
        try:
            write(path, arrays, progress, self._facts, plan)
            self.written += 1
            self._slot = 1 - self._slot
        finally:  # a failure took time too, and is not to be tried again at the very next step
            self._last, self._last_step = time.monotonic(), progress.step
            self.seconds += self._last - began
            self._longest = max(self._longest, self._last - began)

    @property
    def share(self) -> float:
        """The part of the time since `open` that saving took."""
        return self.seconds / max(time.monotonic() - self._started, 1e-9)

    def clear(self) -> None:
        """Removes all generations: the run has ended well, or is to start afresh."""
        for name in NAMES:
            (self.folder / name).unlink(missing_ok=True)

    def _newest(self, present: list[str]) -> Generation | None:
        """The sound generation with the most steps; warns of those that are damaged."""
        sound, damaged = [], []
        for name in present:
            try:
                sound.append(load(self.folder / name, self.kind))
            except (EdgeError, OSError) as error:
                damaged.append(str(error))
        if present and not sound:
            raise FormatError(
                f"no checkpoint in {self.folder} can be read ({'; '.join(damaged)}); --force "
                f"without --resume starts afresh"
            )
        for message in damaged:
            self.warn(f"warning: {message}; going on from the other generation")
        return max(sound, key=lambda one: one.progress.step, default=None)

    def _claim(self) -> None:
        """Makes the folder and locks it until this process ends."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(f"{self.folder} is no folder; choose another {self.option}") from None
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise ConfigError(f"{self.folder} is read-only; choose another {self.option} folder")
        import fcntl  # not needed by runs without checkpoints

        if self._lock is None:
            self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return  # a file system without locks
            self.close()
            raise ConfigError(
                f"another run saves to {self.folder}; wait for it, or choose another {self.option}"
            ) from None

    def close(self) -> None:
        """Gives up the claim on the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
