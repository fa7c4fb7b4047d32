"""edgetune with something wrong below it: python -m tests.faulty '{"fault": ...}' train ...

Faults, each counted over all files that this process writes or reads:

    {"kill": "write" | "fsync" | "replace" | "replaced", "at": n}   SIGKILL in the middle of the
        n-th write, before the n-th fsync or rename, or right after the n-th rename
    {"reads": "short"}             no read gives more than some bytes
    {"reads": "error", "match": s}   EIO from files with `s` in their name
    {"clock": "backwards"}         the time of day and file times run backwards
    {"nan": first, "count": n}     so many steps from `first` on have no finite loss
"""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingFile(io.FileIO):
    """Dies halfway through one of its writes."""

    calls = itertools.count(1)
    at = 0

    def write(self, data: Any) -> int:
        if next(DyingFile.calls) == DyingFile.at:
            super().write(memoryview(data).cast("B")[: len(data) // 2])
            die()
        return super().write(data)


def kill(moment: str, at: int) -> None:
    """Ends this process at a moment of its file work."""
    from edge_runtime import atomic

    calls, real_sync, real_replace = itertools.count(1), os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        if moment == "fsync" and next(calls) == at:
            die()
        real_sync(descriptor)

    def replace(source: Any, target: Any) -> None:
        due = moment in ("replace", "replaced") and next(calls) == at
        if due and moment == "replace":
            die()
        real_replace(source, target)
        if due:
            die()

    if moment == "write":
        DyingFile.at = at
        atomic.open = lambda path, mode: io.BufferedWriter(  # type: ignore[attr-defined]
            DyingFile(path, "w"), 1 << 12
        )
    os.fsync, os.replace = fsync, replace


def short_reads() -> None:
    """Every read gives some of the bytes."""
    real, rng = os.preadv, random.Random(0)

    def preadv(descriptor: int, views: Any, offset: int) -> int:
        (view,) = views
        return real(descriptor, [view[: rng.randint(1, 1000)]], offset)

    os.preadv = preadv  # type: ignore[assignment]


def failing_reads(match: str) -> None:
    """Files with such a name cannot be read."""
    real = os.preadv

    def preadv(descriptor: int, views: Any, offset: int) -> int:
        if match in Path(f"/proc/self/fd/{descriptor}").resolve().name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, views, offset)

    os.preadv = preadv  # type: ignore[assignment]


def clock_backwards() -> None:
    """The time of day falls, and each file is older than the one written before it."""
    calls, start, real = itertools.count(), time.time(), os.replace

    def falling() -> float:
        return start - 3600.0 * next(calls)

    def replace(source: Any, target: Any) -> None:
        os.utime(source, (falling(), falling()))
        real(source, target)

    time.time, os.replace = falling, replace


def not_finite(first: int, count: int) -> None:
    """Steps whose loss is NaN, counted in this process from 1."""
    from trainer_lite.step import TrainingStep

    real, calls = TrainingStep.run, itertools.count(1)

    def run(self: TrainingStep, rows: Any, labels: Any, drop: Any = None) -> tuple[float, int]:
        loss, correct = real(self, rows, labels, drop)
        bad = len(rows) > 6 and first <= next(calls) < first + count  # not those of a rehearsal
        return (float("nan") if bad else loss), correct

    TrainingStep.run = run  # type: ignore[method-assign]


def install(fault: dict[str, Any]) -> None:
    """Puts one fault in place."""
    if "kill" in fault:
        kill(fault["kill"], fault["at"])
    if fault.get("reads") == "short":
        short_reads()
    if fault.get("reads") == "error":
        failing_reads(fault["match"])
    if "clock" in fault:
        clock_backwards()
    if "nan" in fault:
        not_finite(fault["nan"], fault["count"])


if __name__ == "__main__":
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # as the command sets them: a fault may load numpy
    install(json.loads(sys.argv.pop(1)))
    from edge_runtime.cli import main

    main(prog_name="edgetune")
