"""Which runs are made, and what they come to: learning rate and weight decay chosen on val for each
method and set, then further seeds with these.

Each finished run is one file, so a study that was stopped goes on where it was, and several
processes may share one folder.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_runtime.atomic import write_file


@dataclass(frozen=True)
class Run:
    """One training run: a set, a method, and what is varied."""

    set: str
    method: str
    lr: float
    weight_decay: float
    seed: int
    epochs: int

    @property
    def file(self) -> str:
        varied = f"lr{self.lr:g}-decay{self.weight_decay:g}-seed{self.seed}-{self.epochs}ep"
        return f"{self.set}-{self.method}-{varied}.json"


@dataclass(frozen=True)
class Row:
    """A method on a set; accuracies are fractions of the last epoch, mean over the seeds."""

    set: str
    method: str
    lr: float
    weight_decay: float
    val_accuracies: tuple[float, ...]
    test_accuracies: tuple[float, ...]
    parameters: int
    image_bytes: int
    cpu_seconds: float
    peak_rss_bytes: int

    @property
    def mean(self) -> float:
        return statistics.mean(self.test_accuracies)

    @property
    def deviation(self) -> float:
        return statistics.pstdev(self.test_accuracies)

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "mean_test_accuracy": self.mean,
            "std_test_accuracy": self.deviation,
        }


Execute = Callable[[Run], dict[str, Any]]


def remembered(folder: Path, execute: Execute) -> Execute:
    """`execute`, but for runs whose result lies in `folder` already."""

    def result(run: Run) -> dict[str, Any]:
        path = folder / run.file
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            found = {**asdict(run), **execute(run)}
            with write_file(path) as file:
                file.write(json.dumps(found, indent=1).encode())
        return dict(json.loads(path.read_text()))

    return result


def compare(
    sets: Sequence[str],
    methods: Sequence[str],
    *,
    rates: Sequence[float],
    decays: Sequence[float],
    seeds: int,
    epochs: int,
    execute: Execute,
    image_bytes: Callable[[str, str], int],
) -> Iterable[Row]:
    """What is best on val with seed 0 (of equals, the lowest rate, then decay), then every seed."""
    for method in methods:
        for name in sets:
            tried = {
                (lr, decay): execute(Run(name, method, lr, decay, 0, epochs))
                for lr in sorted(rates)
                for decay in sorted(decays)
            }
            best = max(tried, key=lambda options: tried[options]["val_accuracy"])
            runs = [execute(Run(name, method, *best, seed, epochs)) for seed in range(seeds)]
            yield Row(
                name,
                method,
                *best,
                tuple(run["val_accuracy"] for run in runs),
                tuple(run["test_accuracy"] for run in runs),
                runs[0]["parameters"],
                image_bytes(name, method),
                statistics.median(run["cpu_seconds"] for run in runs),
                max(run["peak_rss_bytes"] for run in runs),
            )
