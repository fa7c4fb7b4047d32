"""Drawings in SVG, with title and description: curves over epochs, a matrix of counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainer_lite.page_parts import Html, tag

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 48, 48, 12, 36
MOST_POINTS = 300  # of a curve
LABEL = 13  # height of a name at a curve's end
TINY = 1e-30  # what is below is drawn as 0
SHADES = 6
MOST_CELLS = 20_000  # of a matrix that are drawn
DASHES = ("", "6 3")  # the second for runs beyond as many as there are colours
COLOURS = 6


@dataclass(frozen=True)
class Curve:
    """One line over epochs 1, 2 ...: values, None where there is none.

    Args:
        run: index of the run, which gives its colour.
        label: put at the line's end.
        marked: the epoch that gets a ring, or None.
        faint: drawn thin, for what is shown beside another curve.
    """

    run: int
    label: str
    values: Sequence[float | None]
    marked: int | None = None
    faint: bool = False


def colour(run: int) -> str:
    """The colour of a run, of the style's."""
    return f"var(--s{run % COLOURS + 1})"


def dash(run: int) -> str | None:
    """How the line of a run is dashed."""
    return DASHES[run // COLOURS % len(DASHES)] or None


def swatch(run: int) -> Html:
    """A run's line, for a legend."""
    line = tag(
        "line", x1=0, x2=22, y1=5, y2=5, stroke=colour(run), stroke_width=3,
        stroke_dasharray=dash(run),
    )  # fmt: skip
    return tag("svg", line, viewBox="0 0 22 10", class_="swatch", aria_hidden="true")


def curves(
    title: str, description: str, lines: Sequence[Curve], *, fractions: bool = False
) -> Html:
    """Lines over epochs. Fractions are shown in per cent; other values, all above 0, on a
    logarithmic scale where they span more than a factor of 20."""
    values = [v for line in lines for v in line.values if v is not None]
    scale = Fractions(values) if fractions else Amounts(values)
    epochs = max(len(line.values) for line in lines)

    def x(epoch: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (epoch - 1) / max(1, epochs - 1)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - scale.place(value))

    parts: list[Html] = []
    for value, text in scale.ticks():
        at = f"{y(value):.1f}"
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="axis"))
        parts.append(tag("text", text, x=LEFT - 6, y=f"{y(value) + 4:.1f}", text_anchor="end"))
    for epoch in epoch_ticks(epochs):
        at, side = f"{x(epoch):.1f}", "end" if 1 < epoch == epochs else "middle"
        parts.append(tag("text", epoch, x=at, y=HEIGHT - BOTTOM + 16, text_anchor=side))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(tag("text", f"epoch{scale.note}", x=middle, y=HEIGHT - 4, text_anchor="middle"))
    ends = []
    for line in lines:
        points = [(x(e), y(v)) for e, v in enumerate(line.values, 1) if v is not None]
        if not points:
            continue
        thin = thinned(points)
        parts.append(
            tag(
                "polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in thin), fill="none",
                stroke=colour(line.run), stroke_width=1.2 if line.faint else 2,
                stroke_dasharray="2 3" if line.faint else dash(line.run), stroke_linejoin="round",
            )
        )  # fmt: skip
        if len(points) == 1:
            parts.append(dot(line, *points[0], filled=True))
        if line.marked is not None and line.values[line.marked - 1] is not None:
            best = line.values[line.marked - 1]
            assert best is not None
            note = f"best epoch of {line.label}: {line.marked}, {scale.text(best)}"
            parts.append(dot(line, x(line.marked), y(best), note))
        ends.append((points[-1], line))
    parts += end_labels(ends)
    return tag(
        "svg", tag("title", title), tag("desc", description), parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}. {description}",
    )  # fmt: skip


def dot(line: Curve, x: float, y: float, note: str | None = None, filled: bool = False) -> Html:
    """A ring, or a dot, on a curve."""
    return tag(
        "circle", None if note is None else tag("title", note), cx=f"{x:.1f}", cy=f"{y:.1f}",
        r=2.5 if filled else 4.5, fill=colour(line.run) if filled else "var(--paper)",
        stroke=colour(line.run), stroke_width=2,
    )  # fmt: skip


def end_labels(ends: Sequence[tuple[tuple[float, float], Curve]]) -> list[Html]:
    """Names of curves at their ends, moved apart where they would lie on each other."""
    columns: dict[int, list[tuple[float, float, Curve]]] = {}
    for (x, y), line in ends:
        columns.setdefault(round(x), []).append((y + 4, x, line))
    parts = []
    for column in columns.values():
        column.sort(key=lambda end: end[0])
        places = spread([y for y, _, _ in column], LABEL, HEIGHT - 4)
        for place, (_, x, line) in zip(places, column):
            at = f"{x + 7:.1f}"
            parts.append(tag("text", line.label, x=at, y=f"{place:.1f}", class_="end"))
    return parts


def spread(wanted: Sequence[float], gap: float, most: float) -> list[float]:
    """Places at least `gap` apart and not above `most`, nearest to those wanted, which ascend.

    Neighbours too close become a block, which lies where its members want it on average.
    """
    blocks: list[tuple[float, int]] = []  # where the first of each wants to lie, members
    for index, place in enumerate(wanted):
        block = (place - gap * index, 1)
        while blocks and blocks[-1][0] >= block[0]:
            start, count = blocks.pop()
            both = count + block[1]
            block = ((start * count + block[0] * block[1]) / both, both)
        blocks.append(block)
    starts = [start for start, count in blocks for _ in range(count)]
    highest = most - gap * (len(wanted) - 1)
    return [min(start, highest) + gap * index for index, start in enumerate(starts)]


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of many points the highest and the lowest of each stretch, and both ends."""
    if len(points) <= MOST_POINTS:
        return list(points)
    stretch = 2 * len(points) / (MOST_POINTS - 2)
    kept = {0, len(points) - 1}
    for index in range((MOST_POINTS - 2) // 2):
        part = range(int(index * stretch), min(len(points), int((index + 1) * stretch)))
        kept |= {min(part, key=lambda i: points[i][1]), max(part, key=lambda i: points[i][1])}
    return [points[index] for index in sorted(kept)]


def epoch_ticks(epochs: int) -> list[int]:
    """A few whole epochs, the first and the last among them."""
    step = max(1, int(nice(epochs / 6)))
    inner = [e for e in range(step, epochs, step) if min(e - 1, epochs - e) >= 0.6 * step]
    return sorted({1, *inner, epochs})


def nice(value: float) -> float:
    """The least of 1, 2, 5, 10, 20 ... that is not below a value above 0."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= value * 0.999)


class Fractions:
    """From below the least to above the greatest of some fractions, in per cent."""

    note = ""

    def __init__(self, values: Sequence[float]):
        spread = max(values) - min(values)
        self.step = max(0.01, nice(max(spread, 0.02) / 4))
        self.low = max(0.0, math.floor(min(values) / self.step + 1e-9) * self.step)
        self.high = min(1.0, math.ceil(max(values) / self.step - 1e-9) * self.step)
        if self.high <= self.low:
            self.low, self.high = max(0.0, self.high - self.step), min(1.0, self.low + self.step)

    def place(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        count = round((self.high - self.low) / self.step)
        places = [self.low + self.step * k for k in range(count + 1)]
        return [(value, f"{100 * value:.0f} %") for value in places if value <= self.high + 1e-9]

    def text(self, value: float) -> str:
        return f"{100 * value:.1f} %"


class Amounts:
    """From 0, or by powers where values above 0 span more than a factor of 20."""

    def __init__(self, values: Sequence[float]):
        least, most = min(values), max(values)
        self.logarithmic = least > TINY and most / least > 20
        self.note = ", loss on a logarithmic scale" if self.logarithmic else ""
        if self.logarithmic:
            self.low, self.high = math.log10(least), math.log10(most)
        else:
            self.step = nice(most / 4) if most > TINY else 1.0
            self.low, self.high = min(0.0, least), math.ceil(most / self.step) * self.step or 1.0

    def place(self, value: float) -> float:
        at = math.log10(value) if self.logarithmic else value
        return (at - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        if not self.logarithmic:
            count = round(self.high / self.step)
            return [(self.step * k, f"{self.step * k:.4g}") for k in range(count + 1)]
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        many = [m * 10.0**p for p in powers for m in (1, 2, 5)]
        shown = [v for v in many if self.low <= math.log10(v) <= self.high]
        if len(shown) > 7:
            shown = [v for v in shown if f"{v:e}"[0] == "1"]
        return [(value, f"{value:.4g}") for value in shown]

    def text(self, value: float) -> str:
        return f"{value:.4g}"


def matrix(title: str, description: str, confusion: Sequence[Sequence[int]]) -> Html:
    """Counts by shade, a row a true class; right ones and wrong ones in two colours. For many
    classes: one path a shade, so that a cell takes few bytes."""
    size = len(confusion)
    rows = [max(1, sum(row)) for row in confusion]
    cells = [
        (count / rows[i], i, j) for i, row in enumerate(confusion) for j, count in enumerate(row)
        if count
    ]  # fmt: skip
    cells.sort(key=lambda cell: -cell[0])
    paths: dict[tuple[str, int], list[str]] = {}
    for share, i, j in cells[:MOST_CELLS]:
        kind = "right" if i == j else "wrong"
        shade = min(SHADES, 1 + int(SHADES * share))
        paths.setdefault((kind, shade), []).append(f"M{j} {i}h1v1h-1z")
    drawn = [
        tag("path", d="".join(parts), class_=kind, opacity=f"{0.25 + 0.75 * shade / SHADES:.2f}")
        for (kind, shade), parts in sorted(paths.items())
    ]
    frame = tag("rect", width=size, height=size, class_="frame")
    return tag(
        "svg", tag("title", title), tag("desc", description), frame, drawn,
        viewBox=f"0 0 {size} {size}", role="img", class_="matrix",
        aria_label=f"{title}. {description}",
    )  # fmt: skip
