"""The section of a report on how training went: loss and accuracy by epoch, drawn and listed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer_lite.charts import Curve, curves, swatch
from trainer_lite.history import out_of
from trainer_lite.page_parts import Content, Html, name, percent, shortened, table, tag
from trainer_lite.report_parts import (
    badge,
    by_training,
    command,
    heading,
    index_of,
    missing,
    options_of,
    trained_path,
    without_history,
)

Json = dict[str, Any]

MOST_LISTED = 40  # epochs in the table
LONGEST_REASON = 300  # characters
ABOUT = (
    "Training loss is the mean over an epoch's steps, taken as the weights move. A ring marks the "
    "best epoch on val."
)
SMOOTHED = "Losses with and without label smoothing are not comparable."


def learning(runs: Sequence[Json]) -> Html:
    """Loss and accuracy by epoch, all runs in one drawing."""
    series = [Series(group) for group in by_training(runs)]
    parts: list[Content] = []
    if series:
        alone = len(series) == 1
        drawings = [loss_chart(series, alone), accuracy_chart(series, alone)]
        parts.append(tag("div", drawings, class_="pair"))
        if len(runs) > 1:
            parts.append(tag("div", [one.in_legend() for one in series], class_="legend"))
        if len({run["training"].get("label_smoothing") for run in runs}) > 1:
            parts.append(tag("p", SMOOTHED, class_="note"))
        parts.append(listed(series, alone))
    lacking = [run for run in runs if run["history"] is None]
    if lacking:
        why = [
            tag(
                "li",
                [badge(run), " "] if len(runs) > 1 else None,
                shortened(run["history_missing"], LONGEST_REASON),
            )
            for run in lacking
        ]
        first = lacking[0]
        out = out_of(Path(trained_path(lacking)))
        remedy = command("train", "FEATURES", "--out", out, "--force", *options_of(first))
        told = [tag("ul", why), "A run leaves its history beside OUT when it ends: "]
        parts.append(missing(f"No curves{without_history(runs)}", told, remedy))
    return heading("learning", "Learning curves", ABOUT if series else None, parts)


class Series:
    """The epochs of one training run, and the adaptors that it left."""

    def __init__(self, adaptors: Sequence[Json]):
        self.adaptors, self.first = adaptors, adaptors[0]
        self.letters = " ".join(run["letter"] for run in adaptors)
        self.epochs: list[Json] = self.first["history"]["epochs"]
        self.best: int | None = self.first["history"]["best_epoch"]

    def column(self, key: str) -> list[float | None]:
        return [epoch[key] for epoch in self.epochs]

    def curve(self, label: str, key: str, *, ring: bool = False, faint: bool = False) -> Curve:
        return Curve(
            index_of(self.first), label, self.column(key), self.best if ring else None, faint
        )

    def in_legend(self) -> Html:
        """Its line, and whose it is."""
        names = [[badge(run), " ", name(run["name"]), " "] for run in self.adaptors]
        return tag("span", swatch(index_of(self.first)), names)


def loss_chart(series: Sequence[Series], alone: bool) -> Html:
    """Training loss."""
    lines = [one.curve("train" if alone else one.letters, "train_loss") for one in series]
    told = "; ".join(f"{line.label}: {between(line, '.3g')}" for line in lines)
    return figure("Training loss", curves("Training loss by epoch", f"{told}.", lines))


def accuracy_chart(series: Sequence[Series], alone: bool) -> Html:
    """Validation accuracy; of one run, and where there was no validation, in training too."""
    lines: list[Curve] = []
    for one in series:
        validated = any(value is not None for value in one.column("val_accuracy"))
        if validated:
            label = "val" if alone else one.letters
            lines.append(one.curve(label, "val_accuracy", ring=True))
        if alone or not validated:
            label = "train" if alone else f"{one.letters} train"
            lines.append(one.curve(label, "train_accuracy", faint=True))
    title = "Accuracy on val and in training" if alone else "Accuracy on val"
    told = "; ".join(f"{line.label}: {between(line, '.1%')}" for line in lines)
    drawn = curves(f"{title}, by epoch", f"{told}.", lines, fractions=True)
    return figure(title, drawn)


def between(line: Curve, form: str) -> str:
    """Where a curve begins and ends, in words."""
    known = [value for value in line.values if value is not None]
    return f"from {known[0]:{form}} to {known[-1]:{form}}" if known else "nothing"


def figure(caption: str, drawing: Html) -> Html:
    """A drawing under its name."""
    return tag("figure", tag("figcaption", caption), drawing)


def listed(series: Sequence[Series], alone: bool) -> Html:
    """The curves as numbers; of many epochs some, the best and the last among them."""
    longest = max(len(one.epochs) for one in series)
    step = -(-longest // MOST_LISTED)
    kept = {1, longest, *(one.best for one in series)}
    head: list[Content] = ["epoch"]
    for one in series:
        head += [f"{'' if alone else one.letters + ' '}{key}" for key in ("loss", "train", "val")]
    rows = []
    for number in range(1, longest + 1):
        if number % step == 0 or number in kept:
            rows.append([number, *(cell for one in series for cell in cells(one, number))])
    caption = "Loss and accuracy by epoch; ★ is a run's best epoch on val"
    return tag("details", tag("summary", "The same in numbers"), table(head, rows, caption))


def cells(one: Series, number: int) -> list[Content]:
    """An epoch of a run in the table; empty where the run was shorter."""
    if number > len(one.epochs):
        return ["", "", ""]
    entry = one.epochs[number - 1]
    val = percent(entry["val_accuracy"])
    marked = tag("b", "★ ", val) if number == one.best else val
    return [f"{entry['train_loss']:.4f}", percent(entry["train_accuracy"]), marked]
