"""Few shots: a set's train split cut to some images a class, val and test as they are."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.protocols.prepare import Workplace
from benchmarks.protocols.trials import Options
from benchmarks.protocols.view import View
from edge_runtime.errors import ConfigError, DataError
from edge_runtime.features import FeatureFolder

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """A set with so many images a class; one test accuracy a seed, which draws the images too."""

    set: str
    shots: int
    accuracies: tuple[float, ...]
    options: Options

    @property
    def mean(self) -> float:
        return statistics.mean(self.accuracies)


def parse(text: str) -> list[int]:
    """Numbers of images between commas."""
    try:
        shots = [int(part) for part in text.split(",")]
    except ValueError:
        shots = [0]
    if min(shots) < 1:
        raise ConfigError(f"--shots wants whole numbers from 1 between commas, not {text!r}")
    return shots


def draw(labels: Array, shots: int, seed: int) -> Array:
    """Rows of `shots` images of every class, in order; all of a class that has no more."""
    rows: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(labels.tolist()):
        rows[label].append(row)
    chosen: list[int] = []
    for label, own in rows.items():
        random.Random(f"shots {seed} {label}").shuffle(own)
        chosen += own[:shots]
    return np.array(sorted(chosen))


def cut(whole: FeatureFolder, shots: int, seed: int) -> View:
    """The folder with few images to train on."""
    parts = {name: (name, np.arange(whole.split(name).rows)) for name in whole.split_names}
    parts["train"] = ("train", draw(whole.split("train").labels, shots, seed))
    return View(whole, parts)


def run_one(place: Workplace, name: str, whole: FeatureFolder, shots: int) -> Row:
    """Options chosen on val with the first seed, then every seed with images of its own."""
    trials, what = place.trials, f"{name}-{shots}shot"
    best = trials.choose(what, cut(whole, shots, 0), place.tried)
    runs = [
        trials.run(f"{what}", cut(whole, shots, seed), {**best, "seed": seed})
        for seed in range(place.seeds)
    ]
    return Row(name, shots, tuple(run["test_accuracy"] for run in runs), best)


def run(place: Workplace, sets: Path, shots: Sequence[int]) -> list[Row]:
    """Every set with every number of images."""
    names = sorted(path.parent.name for path in sets.glob("*/train") if path.is_dir())
    if not names:
        raise DataError(f"{sets} holds no set: expected SET/{{train,val,test}}/CLASS/*")
    rows = []
    for name in names:
        whole = place.features(name, sets / name)
        if set(whole.split_names) != {"train", "val", "test"}:
            raise DataError(f"{sets / name} needs train, val and test")
        for count in shots:
            rows.append(run_one(place, name, whole, count))
            place.tell(f"{name}, {count} of a class: {rows[-1].mean:.4f}")
    return rows


def table(rows: Sequence[Row]) -> str:
    """A line a set, a column a number of images."""
    shots = list(dict.fromkeys(row.shots for row in rows))
    lines = [f"{'images a class':22}" + "".join(f"{count:>16}" for count in shots)]
    for name in dict.fromkeys(row.set for row in rows):
        own = {row.shots: row for row in rows if row.set == name}
        cells = (f"{own[n].mean:.3f} ± {statistics.pstdev(own[n].accuracies):.3f}" for n in shots)
        lines.append(f"{name:22}" + "".join(f"{cell:>16}" for cell in cells))
    averages = (statistics.mean(row.mean for row in rows if row.shots == n) for n in shots)
    lines.append(f"{'mean':22}" + "".join(f"{value:>16.3f}" for value in averages))
    return "\n".join(lines)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The same for machines."""
    return [{**asdict(row), "mean": row.mean} for row in rows]
