"""Which runs of a sweep go on: the grid they come from, and successive halving on val.

After Jamieson and Talwalkar (arXiv 1502.07943). With n = ceil(log2(members)) halvings, the i-th is
after i / (n + 1) of the epochs: 8 members are halved after a quarter, half and three quarters.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge_runtime.errors import ConfigError
from trainer_lite.config import TrainConfig
from trainer_lite.reports import EpochReport

AXES = ("lr", "rank", "seed", "weight_decay")


@dataclass(frozen=True)
class Round:
    """Epochs up to `last` (from 1); then the `keep` best go on."""

    last: int
    keep: int


def grid(config: TrainConfig, axes: Mapping[str, Sequence[Any]]) -> list[TrainConfig]:
    """A configuration for each combination of the values of some options.

    Raises:
        ConfigError: a value that is given twice or cannot be, or ranks of adaptors without blocks.
    """
    for name, values in axes.items():
        if len(set(values)) < len(values):
            raise ConfigError(f"{name} is given the same value twice: {listed(values)}")
    if config.kind == "linear" and len(axes.get("rank", ())) > 1:
        raise ConfigError("kind linear has no rank to choose; leave --rank out")
    combinations = itertools.product(*axes.values())
    return [replace(config, **dict(zip(axes, values))) for values in combinations]


def listed(values: Sequence[Any]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def rounds(members: int, epochs: int, halving: bool = True) -> list[Round]:
    """The rounds of a sweep; the last ends with the last epoch. Rounds of no epoch are left out."""
    halvings = (members - 1).bit_length() if halving else 0
    found: list[Round] = []
    for index in range(1, halvings + 1):
        last, keep = epochs * index // (halvings + 1), -(-members >> index)
        if 0 < last < epochs:
            found = [before for before in found if before.last < last] + [Round(last, keep)]
    return [*found, Round(epochs, found[-1].keep if found else members)]


def spans(members: int, found: Sequence[Round]) -> list[tuple[int, int]]:
    """(epochs, members) of each round."""
    lasts = [0, *(one.last for one in found)]
    counts = [members, *(one.keep for one in found)]
    return [(end - start, count) for start, end, count in zip(lasts, lasts[1:], counts)]


def score(history: Sequence[EpochReport]) -> tuple[float, float, float]:
    """What members are ranked by, the larger the better: the best accuracy on val so far, as the
    best epoch is what is kept in the end; then the last one; then the loss in training."""
    val = [report.val_accuracy or 0.0 for report in history]
    return max(val), val[-1], -history[-1].train_loss
