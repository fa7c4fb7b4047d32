"""A calibrated board: its limits, and how long each kind of operation takes there.

The time of one operation is modelled as `call + macs / rate + bytes / rate`, its three numbers
fitted for each kind of operation to what `calibrate` measured at a few shapes. Reading has no MACs:
there images stand in their place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import formats
from edge_runtime.errors import FormatError
from edge_runtime.flops import Cost
from trainer_lite.clocks import Operation

Sample = tuple[Cost, float]  # what one run of an operation costs, and its seconds


@dataclass(frozen=True)
class Board:
    """What `edgetune calibrate` writes.

    Args:
        machine: names and sizes, for people. rates: limits, as rates.py names them.
        kinds: seconds a call, a MAC (or an image that is read) and a byte for each kind of
            operation.
        speedups: by how much so many lanes side by side are faster than one.
        between: seconds that pass between two operations.
        step, image: seconds of a run beside its operations: batches are drawn, rows asked for
            ahead, steps checked and reported.
    """

    machine: dict[str, Any]
    rates: dict[str, float]
    kinds: dict[str, tuple[float, float, float]]
    between: float
    step: float
    image: float
    speedups: dict[str, float]

    def seconds(self, operation: Operation) -> float:
        """Seconds that one run is expected to take.

        Raises:
            FormatError: a kind of operation that the calibration does not know.
        """
        if operation.kind not in self.kinds:
            raise FormatError(
                f"this calibration does not know the operation {operation.kind!r}; it was made by "
                f"another version of edgetune: run edgetune calibrate again"
            )
        call, mac, byte = self.kinds[operation.kind]
        ones, pieces, nbytes = terms(operation.cost)
        return self.between + call * ones + mac * pieces + byte * nbytes

    def speedup(self, lanes: int) -> float:
        """By how much so many lanes are faster than one; of the most that were measured, if more
        are asked for, and in proportion between two that were."""
        known = sorted((int(n), by) for n, by in self.speedups.items())
        return float(np.interp(lanes, [n for n, _ in known], [by for _, by in known]))

    def save(self, path: Path) -> None:
        """Writes board.json, atomically."""
        formats.write_json(
            path, {"format": formats.BOARD, "version": formats.VERSION, **asdict(self)}
        )

    @classmethod
    def load(cls, path: Path) -> Board:
        """Reads board.json.

        Raises:
            FormatError: not such a file, damaged, or of a version not known here.
        """
        content = formats.read_json(path)
        formats.check_version(content, formats.BOARD, path)
        try:
            board = cls(
                machine=dict(content["machine"]),
                rates={str(name): sound(rate) for name, rate in content["rates"].items()},
                kinds={
                    str(kind): (sound(call), sound(mac), sound(byte))
                    for kind, (call, mac, byte) in content["kinds"].items()
                },
                between=sound(content["between"]),
                step=sound(content["step"]),
                image=sound(content["image"]),
                speedups={str(int(n)): sound(by) for n, by in content["speedups"].items()},
            )
            missing = [] if board.speedups.get("1") else ["speedups"]
            missing += [name for name in NEEDED if not board.rates.get(name)]
        except (KeyError, TypeError, ValueError, AttributeError):
            missing = ["its entries"]
        if missing:
            raise FormatError(
                f"{path}: a calibration whose {missing[0]} is missing or damaged; run edgetune "
                f"calibrate again"
            )
        return board


def sound(value: Any) -> float:
    """A rate or a time; ValueError for what is none."""
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{value!r} is no rate")
    return number


NEEDED = ("square_flops", "cache_bytes", "memory_bytes", "exp_entries", "storage_bytes")


def terms(cost: Cost) -> tuple[float, float, float]:
    """What the time of an operation is in proportion to: calls, MACs or images, bytes."""
    return 1.0, float(cost.macs + cost.images), float(cost.bytes)


def fit(samples: Iterable[Sample]) -> tuple[float, float, float]:
    """Seconds of each of the `terms`, none negative, least squares of relative errors."""
    measured = [(cost, seconds) for cost, seconds in samples if seconds > 0]
    if not measured:
        return 0.0, 0.0, 0.0
    columns = np.array([terms(cost) for cost, _ in measured])
    seconds = np.array([seconds for _, seconds in measured])
    scaled = columns / seconds[:, None]
    size = np.maximum(np.abs(scaled).max(axis=0), 1e-300)
    best, least = np.zeros(3), math.inf
    for chosen in (c for count in (1, 2, 3) for c in combinations(range(3), count)):
        pick = list(chosen)
        found = np.linalg.lstsq(scaled[:, pick] / size[pick], np.ones(len(seconds)), rcond=1e-9)[0]
        error = float(np.square(scaled[:, pick] / size[pick] @ found - 1).sum())
        if (found >= 0).all() and error < least * (1 - 1e-9):
            best, least = np.zeros(3), error
            best[pick] = found / size[pick]
    return float(best[0]), float(best[1]), float(best[2])
