"""VTAB-1k: options chosen on 200 images after training on 800, then three runs on all 1000."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.protocols.layouts import read_task, write_set
from benchmarks.protocols.prepare import Workplace
from benchmarks.protocols.tasks import BY_NAME, PUBLISHED, SOURCES, TASKS, means
from benchmarks.protocols.trials import Options
from benchmarks.protocols.view import View
from edge_runtime import atomic
from edge_runtime.errors import DataError
from edge_runtime.features import FeatureFolder


@dataclass(frozen=True)
class Row:
    """A task: mean test accuracy over the seeds, a fraction; or why it was not run.

    `drawn`: the 800 and 200 images are not those of VTAB-1k.
    """

    task: str
    accuracy: float | None = None
    accuracies: tuple[float, ...] = ()
    options: Options | None = None
    drawn: bool = False
    reason: str = ""


def run(place: Workplace, root: Path, tasks: Sequence[str], *, keep: bool) -> list[Row]:
    """Every task, in the order given; a task whose data is not there gets a row that says so."""
    rows = []
    for name in tasks:
        try:
            rows.append(run_task(place, root, name, keep=keep))
        except DataError as error:
            rows.append(Row(name, reason=str(error)))
        place.tell(line(rows[-1]))
    return rows


def run_task(place: Workplace, root: Path, name: str, *, keep: bool) -> Row:
    """One task."""
    images = place.folder / f"{name}-images"
    if not images.exists():
        write_set(read_task(root, BY_NAME[name]), images)
    noted = json.loads((images / "unseen.json").read_text())
    whole = place.features(name, images)
    search, final = views(whole)
    best = place.trials.choose(name, search, place.tried)
    runs = [place.trials.run(name, final, {**best, "seed": seed}) for seed in range(place.seeds)]
    tested = whole.split("test").rows
    counted = tested / (tested + noted["images"])  # unseen classes are wrong
    accuracies = tuple(run["test_accuracy"] * counted for run in runs)
    if not keep:
        atomic.remove(place.features_path(name))
        atomic.remove(images)
    mean = sum(accuracies) / len(accuracies)
    return Row(name, mean, accuracies, best, noted["drawn"])


def views(whole: FeatureFolder) -> tuple[FeatureFolder, FeatureFolder]:
    """(trained on 800 and validated on 200, trained on all 1000 and tested)."""
    names = [path.rpartition("/")[2] for path in whole.split("train").paths]
    rows = {
        part: np.array([row for row, name in enumerate(names) if name.startswith(f"{part}-")])
        for part in ("train", "val")
    }
    search = View(whole, {part: ("train", chosen) for part, chosen in rows.items()})
    everything = {name: (name, np.arange(whole.split(name).rows)) for name in ("train", "test")}
    return search, View(whole, everything)


def line(row: Row) -> str:
    if row.accuracy is None:
        return f"{row.task:22} not run: {row.reason}"
    each = " ".join(f"{100 * accuracy:.1f}" for accuracy in row.accuracies)
    chosen = ", ".join(f"{name} {value}" for name, value in (row.options or {}).items())
    own = "; own 800/200 split" if row.drawn else ""
    return f"{row.task:22} {100 * row.accuracy:6.2f}   ({each}; {chosen}{own})"


def table(rows: Sequence[Row]) -> str:
    """A line a task, the groups' means, the two overall means, and the published figures."""
    found = means({row.task: row.accuracy for row in rows if row.accuracy is not None})
    lines = [line(row) for row in rows]
    asked = {row.task for row in rows}
    lines += [f"{task.name:22} not run: not asked for" for task in TASKS if task.name not in asked]
    lines.append("")
    for name, value in (
        *((f"mean of {group}", value) for group, value in found.groups.items()),
        ("mean of the groups", found.of_groups),
        ("mean of all 19 tasks", found.of_tasks),
    ):
        shown = "not run: tasks are missing" if value is None else f"{100 * value:6.2f}"
        lines.append(f"{name:22} {shown}")
    if any(row.drawn for row in rows):
        lines.append("with splits that are not VTAB-1k's own: not to be set beside published ones")
    lines += ["", "published, ViT-B/16 of ImageNet-21k, mean of the groups:"]
    lines += [f"{name:22} {value:6.2f}   ({SOURCES[name]})" for name, value in PUBLISHED.items()]
    return "\n".join(lines)


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """The same for machines; accuracies are fractions, published figures per cent."""
    found = means({row.task: row.accuracy for row in rows if row.accuracy is not None})
    return {
        "tasks": [asdict(row) for row in rows],
        "means": asdict(found),
        "published_per_cent": PUBLISHED,
        "sources": SOURCES,
    }
