"""The comparison as text and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.methods.methods import BY_NAME, VIT_B16
from benchmarks.methods.study import Row

EXPLANATION = """\
accuracy: test, last epoch, mean and deviation over the seeds; val chose the rate and decay (seed 0)
parameters: all that is trained; in brackets at ViT-B/16's shapes, without the last linear layer
bytes: sent for an image in float16; CPU: whole process, median run; peak RSS: VmHWM, most of all,
of LST and LAST with the training images' taps in memory"""


def names_in(rows: Sequence[Row], attribute: str) -> list[str]:
    """Values of an attribute, in the order of their first appearance."""
    return list(dict.fromkeys(getattr(row, attribute) for row in rows))


def of_method(rows: Sequence[Row], method: str) -> list[Row]:
    return [row for row in rows if row.method == method]


def average(rows: Sequence[Row]) -> float:
    """Mean over the sets of the accuracies' means."""
    return statistics.mean(row.mean for row in rows)


def table(rows: Sequence[Row]) -> str:
    """A line a method, a column a set."""
    sets = names_in(rows, "set")
    lines = [("method", *sets, "mean", "parameters", "bytes", "CPU, s", "peak RSS, MiB")]
    for name in names_in(rows, "method"):
        own = of_method(rows, name)
        found = {row.set: f"{row.mean:.3f} ± {row.deviation:.3f}" for row in own}
        whole = len(own) == len(sets)
        wide = BY_NAME[name].parameters(VIT_B16)
        lines.append(
            (
                BY_NAME[name].title,
                *(found.get(each, "-") for each in sets),
                f"{average(own):.3f}" if whole else "-",
                f"{own[0].parameters} ({wide / 1e6:.2f}M)",
                f"{own[0].image_bytes}",
                f"{statistics.median(row.cpu_seconds for row in own):.0f}",
                f"{max(row.peak_rss_bytes for row in own) / 2**20:.0f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    ]
    return "\n".join([*text, "", EXPLANATION])


def as_json(rows: Sequence[Row], **settings: Any) -> str:
    """Everything that was found, for machines."""
    return json.dumps(
        {
            **settings,
            "rows": [row.to_json() for row in rows],
            "mean_over_sets": {
                name: average(of_method(rows, name)) for name in names_in(rows, "method")
            },
        },
        indent=1,
    )
