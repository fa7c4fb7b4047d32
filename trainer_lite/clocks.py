"""What each operation of a program is, what it costs, and how long it takes.

The first two are read off the program; the last is measured by putting a clock around each
operation. The clock's own time is measured, too, and taken off.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge_runtime.flops import Cost, operation_cost
from edge_runtime.program import Program, Workspace
from trainer_lite.lifetimes import Owners
from trainer_lite.parameters import ParameterSet

WARM_UP = 2  # runs that are not counted
FIRST = ("copyto", "centre_rows", "layer_norm_backward", "read")  # what these change comes first


@dataclass(frozen=True)
class Operation:
    """One operation of a program: where it stands, what it is, what one run of it costs."""

    section: str
    name: str
    cost: Cost

    @property
    def kind(self) -> str:
        """Operations of one kind do the same thing in other blocks, or at other shapes."""
        return f"{self.section.split(':')[0]} {re.sub(r'(?<=block)[0-9]+', '', self.name)}"


@dataclass(frozen=True)
class Measured:
    """An operation over one step, or over one image of inference: all its runs together."""

    operation: Operation
    runs: int
    cost: Cost
    seconds: float


class Timed:
    """A function that adds up how long its calls take."""

    __slots__ = ("function", "runs", "seconds")

    def __init__(self, function: Callable[..., Any]):
        self.function, self.seconds, self.runs = function, 0.0, 0

    def __call__(self, *arguments: Any) -> None:
        started = time.perf_counter()
        self.function(*arguments)
        self.seconds += time.perf_counter() - started
        self.runs += 1


Group = list[tuple[Program, list[Operation]]]


class Names(Owners):
    """Names of all arrays that a step works in: parameters and the buffers of workspaces."""

    def __init__(self, parameters: ParameterSet, *workspaces: Workspace):
        named = dict(parameters.values)
        for workspace in workspaces:
            named.update(workspace.buffers)
        super().__init__(named)


def optimiser_operation(parameters: ParameterSet) -> Operation:
    """AdamW's update: about 12 passes over the parameters, 7 arrays moved."""
    cost = Cost(0, 12 * parameters.flat.size, 7 * parameters.flat.nbytes)
    return Operation("optimiser: AdamW", "step -> parameters", cost)


def describe(program: Program, names: Names) -> list[Operation]:
    """What each operation of a program is, by the buffers that it works in."""
    found = []
    pieces = zip(program.operations, program.sections, program.touched())
    for (function, arguments), section, touched in pieces:
        uses = tuple(touched[sum(isinstance(a, np.ndarray) for a in arguments) :])
        arrays = touched[: len(touched) - len(uses)] or list(uses)
        label = getattr(function, "__name__", type(function).__name__).strip("_")
        out = names.of(arrays[0 if label in FIRST else -1]) if arrays else None
        cost = operation_cost(function, arguments, uses)
        if label == "read":  # z, norms, scratch: how long it takes depends on the codec
            bits = max(1, 8 * uses[2].size // uses[0].size)  # and a little for the scales
            label = f"read {1 << bits.bit_length() - 1} bits an entry"
            cost = replace(cost, images=len(uses[0]))
        name = f"{label} -> {out}" if out else label
        found.append(Operation(section, name, cost))
    return found


def put_clocks(program: Program) -> list[Timed]:
    """Puts a clock around every operation of a program, for good."""
    clocks = [Timed(function) for function, _ in program.operations]
    for index, (_, arguments) in enumerate(program.operations):
        program.operations[index] = (clocks[index], arguments)
    return clocks


def clock_seconds() -> tuple[float, float]:
    """Of a call that does nothing: what its clock sees, and what it takes in all."""
    clock, count = Timed(bool), 5000
    started = time.perf_counter()
    for _ in range(count):
        clock()
    return clock.seconds / count, (time.perf_counter() - started) / count


def measure(
    groups: Sequence[Group], run: Callable[[], None], times: int
) -> tuple[list[Measured], float]:
    """Runs `run` so many times: each operation with the median of its seconds, and that of a run.

    A group is one program at one or more sizes: its operations count together. What the clocks
    themselves take is subtracted.
    """
    seen, whole = clock_seconds()
    clocked = [[(put_clocks(program), operations) for program, operations in g] for g in groups]
    clocks = [clock for group in clocked for timed, _ in group for clock in timed]
    samples: dict[int, list[float]] = {id(clock): [] for clock in clocks}
    totals = []
    for turn in range(times + WARM_UP):
        for clock in clocks:
            clock.seconds, clock.runs = 0.0, 0
        started = time.perf_counter()
        run()
        seconds = time.perf_counter() - started
        if turn >= WARM_UP:
            totals.append(seconds - whole * sum(clock.runs for clock in clocks))
            for clock in clocks:
                samples[id(clock)].append(clock.seconds - seen * clock.runs)
    found = []
    for group in clocked:
        for same in zip(*(zip(timed, operations) for timed, operations in group)):
            seconds = sum(statistics.median(samples[id(clock)]) for clock, _ in same)
            total = Cost.total((clock.runs, operation.cost) for clock, operation in same)
            runs = sum(clock.runs for clock, _ in same)
            found.append(Measured(same[0][1], runs, total, max(0.0, seconds)))
    return found, statistics.median(totals)


def median_seconds(function: Callable[[], None], times: int) -> float:
    """Median of so many calls."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
