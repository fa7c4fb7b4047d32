"""The comparison as a picture: accuracy by set, and accuracy against what has to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.methods.methods import BY_NAME
from benchmarks.methods.study import Row
from benchmarks.methods.table import average, names_in, of_method
from edge_runtime.errors import require

OURS, OTHERS = (
    "#c2410c",
    ("#94a3b8", "#64748b", "#a5b4c4", "#7c8ea3", "#475569", "#38719e", "#1e3a5f"),
)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Writes the picture, in the format that the file's suffix names."""
    require("matplotlib", extra="bench")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sets, methods = names_in(rows, "set"), names_in(rows, "method")
    others = iter(OTHERS * (1 + len(methods) // len(OTHERS)))
    colour = {name: OURS if name == "adaptor" else next(others) for name in methods}
    figure, (bars, sent) = pyplot.subplots(1, 2, figsize=(12, 4.5), width_ratios=(3, 2))
    width = 0.85 / len(methods)
    for place, name in enumerate(methods):
        own = of_method(rows, name)
        left = [sets.index(row.set) + (place - len(methods) / 2 + 0.5) * width for row in own]
        means, spread = [row.mean for row in own], [row.deviation for row in own]
        bars.bar(left, means, width, yerr=spread, color=colour[name], label=BY_NAME[name].title)
        if len(own) == len(sets):
            point = (own[0].image_bytes / 1e3, average(own))
            sent.plot(*point, "o", color=colour[name])
            sent.annotate(name, point, textcoords="offset points", xytext=(6, 4), fontsize=8)
    lowest = min(row.mean for row in rows)
    bars.set_ylim(max(0.0, lowest - 0.1), 1.0)
    bars.set_xticks(range(len(sets)), sets)
    bars.set_ylabel("test accuracy")
    bars.legend(fontsize=7, loc="lower right")
    sent.set_xscale("log")
    sent.margins(0.2)
    sent.set_xlabel("KB sent for an image")
    sent.set_ylabel("test accuracy, mean over sets")
    for axes in (bars, sent):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
