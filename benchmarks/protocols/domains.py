"""Domain generalisation: trained on a few images a class of one set, tested on others unseen.

A target's classes are among the source's (ImageNet-A and -R have 200 of ImageNet's 1000). Two
accuracies are given: over all classes of the source, and with the target's own alone to choose
from, as papers on such subsets do.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.protocols.few_shot import run_one
from benchmarks.protocols.prepare import Workplace
from edge_runtime.adaptor import Adaptor
from edge_runtime.errors import DataError
from edge_runtime.features import FeatureFolder

BATCH = 32


@dataclass(frozen=True)
class Row:
    """A domain; accuracies one a seed, over all classes and over the domain's own."""

    domain: str
    accuracies: tuple[float, ...]
    own_classes: tuple[float, ...]


def run(place: Workplace, source: Path, targets: Sequence[Path], shots: int) -> list[Row]:
    """The source's own test split first, then every target."""
    whole = place.features(source.name, source)
    trained = run_one(place, source.name, whole, shots)
    adaptors = [
        place.trials.adaptor(f"{source.name}-{shots}shot", {**trained.options, "seed": seed})
        for seed in range(place.seeds)
    ]
    rows = [Row(source.name, trained.accuracies, trained.accuracies)]
    for target in targets:
        features = place.features(f"{source.name}-to-{target.name}", target)
        found = [test_on(adaptor, features) for adaptor in adaptors]
        rows.append(Row(target.name, *zip(*found)))
    return rows


def test_on(adaptor: Adaptor, features: FeatureFolder) -> tuple[float, float]:
    """Accuracy on all of a folder's images: (of all classes, of the folder's own)."""
    unknown = [name for name in features.classes if name not in adaptor.classes]
    if unknown:
        raise DataError(
            f"{features.path} has class {unknown[0]!r}, which the adaptor was not trained on"
        )
    own = np.array([adaptor.classes.index(name) for name in features.classes])
    right, right_own, images = 0, 0, 0
    for name in features.split_names:
        split = features.split(name)
        for start in range(0, split.rows, BATCH):
            rows = np.arange(start, min(start + BATCH, split.rows))
            z = np.empty((len(rows), split.tokens, split.embed_dim), np.float32)
            norms = np.empty(z.shape[:2], np.float32)
            split.read(rows, z, norms, np.empty(split.scratch_bytes(len(rows)), np.uint8))
            probabilities = adaptor.predict_proba(z)
            labels = split.labels[rows]
            right += int((probabilities.argmax(1) == own[labels]).sum())
            right_own += int((probabilities[:, own].argmax(1) == labels).sum())
            images += len(rows)
    return right / images, right_own / images


def table(rows: Sequence[Row]) -> str:
    """A line a domain; the source first."""
    lines = [f"{'domain':28}{'accuracy':>10}{'of its own classes':>22}"]
    for row in rows:
        means = statistics.mean(row.accuracies), statistics.mean(row.own_classes)
        lines.append(f"{row.domain:28}{means[0]:>10.4f}{means[1]:>22.4f}")
    return "\n".join(lines)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The same for machines."""
    return [asdict(row) for row in rows]
