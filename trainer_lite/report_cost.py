"""Sections of a report on what a run costs: memory, time by operation, bytes of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer_lite.page_parts import (
    Content,
    Html,
    byte_count,
    mebibytes,
    name,
    percent,
    seconds,
    shortened,
    table,
    tag,
)
from trainer_lite.profile_table import sections
from trainer_lite.report_parts import (
    badges,
    by_training,
    command,
    heading,
    meter,
    missing,
    options_of,
    trained_path,
    without_history,
)

Json = dict[str, Any]

PARTS = (  # as MemoryPlan names them, for people, and their colours
    ("baseline_bytes", "process before training", "var(--soft)"),
    ("blas_bytes", "BLAS work space", "var(--s5)"),
    ("object_bytes", "Python objects, code", "var(--s6)"),
    ("parameter_bytes", "parameters and optimiser", "var(--s4)"),
    ("weights_bytes", "fused weights", "var(--s3)"),
    ("arena_bytes", "arena", "var(--s1)"),
)
ABOUT_MEMORY = (
    "Of the whole process. The parts are what was predicted before the run began, and of a small "
    "run come to less than loading it took; the line is the peak RSS (VmHWM) measured at its end."
)
LEAST_SHARE = 0.01  # of a stage's time that gets a bar of its own
STAGES = (("training", "A training step"), ("inference", "One image's inference"))
PHASES = {  # of the names of operations, and their colours
    "input": "var(--soft)",
    "weights": "var(--s5)",
    "forward": "var(--s1)",
    "loss": "var(--s4)",
    "backward": "var(--s2)",
    "gradients": "var(--s3)",
    "optimiser": "var(--s6)",
}


def memory(runs: Sequence[Json]) -> Html:
    """What was planned, part by part, and what was measured."""
    groups, lacking = by_training(runs), [run for run in runs if run["history"] is None]
    parts: list[Content] = []
    if groups:
        parts.append(memory_bars(groups, runs))
        parts.append(tag("div", memory_table(groups, runs), run_table(groups, runs), class_="pair"))
    if lacking:
        why = "It is in the run's history, which is not here. To plan such a run anew: "
        remedy = command("plan", "FEATURES", *options_of(lacking[0]))
        parts.append(missing(f"No memory plan{without_history(runs)}", why, remedy))
    return heading("memory", "Memory", ABOUT_MEMORY if groups else None, parts)


def memory_bars(groups: Sequence[Sequence[Json]], runs: Sequence[Json]) -> list[Html]:
    """A bar a run, all to one scale."""
    plans = [group[0]["history"]["memory"] for group in groups]
    keys = ("predicted_peak_rss_bytes", "peak_rss_bytes", "memory_budget_bytes")
    most = 1.02 * max(plan.get(key) or 0 for plan in plans for key in keys) or 1
    bars = []
    for group, plan in zip(groups, plans):
        pieces = [
            tag(
                "i",
                style=f"width:{100 * plan[key] / most:.3f}%;background:{paint}",
                title=f"{text}: {mebibytes(plan[key])}",
            )
            for key, text, paint in PARTS
        ]
        predicted, measured = plan["predicted_peak_rss_bytes"], plan["peak_rss_bytes"]
        marks = [mark(measured, most, "measured peak RSS", None)]
        told = f"predicted {mebibytes(predicted)}, measured {mebibytes(measured)}"
        if plan.get("memory_budget_bytes"):
            marks.append(mark(plan["memory_budget_bytes"], most, "budget", "budget"))
            told += f", budget {mebibytes(plan['memory_budget_bytes'])}"
        fill = tag("div", pieces, class_="fill")
        about = f"Memory of {group[0]['letter']}: {told}"
        track = tag("div", fill, marks, class_="track", role="img", aria_label=about)
        letters = [badges(runs, [run["letter"] for run in group]), " "]
        who = tag("span", letters, name(group[0]["name"]), class_="who")
        bars.append(tag("div", who, track, tag("span", mebibytes(measured)), class_="stack"))
    return bars


def mark(count: int, most: float, text: str, kind: str | None) -> Html:
    """A line across a bar."""
    style = f"left:{100 * count / most:.2f}%"
    return tag("u", style=style, title=f"{text}: {mebibytes(count)}", class_=kind)


def memory_table(groups: Sequence[Sequence[Json]], runs: Sequence[Json]) -> Html:
    """The same in numbers."""
    plans = [group[0]["history"]["memory"] for group in groups]

    def row(key: str, label: Content, *, bold: bool = False) -> list[Content]:
        sizes = [plan.get(key) for plan in plans]
        shown = ["none" if size is None else mebibytes(size) for size in sizes]
        return [label, *(tag("b", text) if bold else text for text in shown)]

    line, dashed = square("var(--ink)", 2), square("var(--ink)", 2, dashed=True)
    rows = [row(key, [square(paint), text]) for key, text, paint in PARTS]
    rows.append(row("predicted_peak_rss_bytes", tag("b", "predicted peak RSS"), bold=True))
    measured = [line, tag("b", "measured peak RSS")]
    rows.append(row("peak_rss_bytes", measured, bold=True))
    if any(plan.get("memory_budget_bytes") for plan in plans):
        rows.append(row("memory_budget_bytes", [dashed, "budget"]))
    return table(heads(groups, runs), rows, "Part by part, in the order of the bar")


def heads(groups: Sequence[Sequence[Json]], runs: Sequence[Json]) -> list[Content]:
    """Heads of a table with a column a training run."""
    whose = (badges(runs, [run["letter"] for run in group]) for group in groups)
    return ["", *(found or Html("") for found in whose)]


def run_table(groups: Sequence[Sequence[Json]], runs: Sequence[Json]) -> Html:
    """How the runs went: steps, tiles, time."""
    found = [group[0]["history"] for group in groups]
    rows: list[list[Content]] = [
        ["steps", *(f"{h['steps']:,}" for h in found)],
        ["skipped, not finite", *(f"{h['skipped_steps']:,}" for h in found)],
        ["images in a tile", *(f"{h['memory']['tile_images']:,}" for h in found)],
        ["tiles side by side", *(f"{h['memory']['lanes']:,}" for h in found)],
        ["threads allowed", *(f"{h['threads']:,}" for h in found)],
        ["images/s, last epoch", *(f"{h['epochs'][-1]['rate']:,.0f}" for h in found)],
        ["time of the run", *(seconds(h["seconds"]) for h in found)],
    ]
    return table(heads(groups, runs), rows, "How the runs went" if len(runs) > 1 else "How it went")


def square(paint: str, width: int = 10, dashed: bool = False) -> Html:
    """What a part of a bar looks like, for its table."""
    drawn = tag(
        "line", x1=6, x2=6, y1=0, y2=14, stroke=paint, stroke_width=width,
        stroke_dasharray="3 2" if dashed else None,
    )  # fmt: skip
    return tag("svg", drawn, viewBox="0 0 12 14", class_="key", aria_hidden="true")


def operations(content: Json) -> Html:
    """Where time goes, as a profile has it."""
    title, profile, runs = "Time by operation", content["profile"], content["runs"]
    if profile is None:
        path = trained_path(runs)
        why = "A profile is measured on the device, which need not be where this page is written:"
        first = command("profile", path, "--json", to="profile.json")
        again = command("report", path, "--profile", "profile.json", "--html", "FILE")
        return heading("time", title, None, missing("No times", why, first, again))
    drawn = [stage_bars(profile[key], text) for key, text in STAGES]
    images, tile = profile["training"]["images"], profile["tile_images"]
    whose = badges(runs, profile["letters"])
    about = [
        [whose, ": " if whose else "", tag("code", "edgetune profile")],
        f" with a batch of {images:,} images in tiles of {tile:,}. The mark on each bar is the "
        "least time that the machine's limits allow for that work.",
    ]
    return heading("time", title, about, tag("div", drawn, class_="pair"))


def stage_bars(stage: Json, title: str) -> Html:
    """A bar for each section of a step or of an inference; the short ones together."""
    whole = max(float(stage["seconds"]), sum(float(o["seconds"]) for o in stage["operations"]))
    whole, rest, count = max(whole, 1e-9), [0.0, 0.0], 0
    parts = {"between operations": (max(0.0, float(stage["other_seconds"])), 0.0)}
    for key, part in sections(stage["operations"]).items():
        took, limit = float(part["seconds"]), float(part["limit_seconds"])
        if took >= LEAST_SHARE * whole:
            parts[key] = (took, limit)
        else:
            rest, count = [rest[0] + took, rest[1] + limit], count + 1
    if count:
        parts[f"{count} more, each below {percent(LEAST_SHARE, 0)}"] = (rest[0], rest[1])
    most = max(max(pair) for pair in parts.values()) or 1.0
    bars = []
    for key, (took, limit) in sorted(parts.items(), key=lambda item: -item[1][0]):
        paint = PHASES.get(key.split(":")[0], "var(--soft)")
        drawn = [tag("i", style=f"width:{100 * took / most:.1f}%;background:{paint}")]
        if limit:
            least = f"at least {seconds(limit)}"
            drawn.append(tag("u", style=f"left:{min(99.5, 100 * limit / most):.1f}%", title=least))
        share = f"{seconds(took)}, {percent(took / whole, 0)}"
        bars.append(
            tag("div", tag("span", name(key)), tag("div", drawn), tag("span", share), class_="bar")
        )
    return tag("figure", tag("figcaption", f"{title}: {seconds(whole)}"), bars)


def transfer(content: Json) -> Html:
    """Bytes of features in every codec, and of what was given."""
    runs, features = content["runs"], content["features"]
    shapes: dict[str, list[Json]] = {}
    for run in runs:
        shapes.setdefault(repr(run["codecs"]), []).append(run)
    parts: list[Content] = [codec_table(same, runs, features) for same in shapes.values()]
    if features is None:
        again = command("report", runs[0]["path"], "--features", "FEATURES", "--html", "FILE")
        why = "How many images there are, the feature folder knows: "
        parts.append(tag("div", missing("No totals", why, again)))
    else:
        splits = {**features["splits"], "all": sums(features)}
        rows = [[key, f"{s['rows']:,}", byte_count(s["bytes"])] for key, s in splits.items()]
        caption = f"On disk: {shortened(features['path'])}"
        parts.append(table(["split", "images", "bytes"], rows, caption))
    about = "What travels from a server to the device, once an image, in each codec."
    return heading("transfer", "Transfer", about, tag("div", parts, class_="pair"))


def sums(features: Json) -> Json:
    """Rows and bytes of all splits."""
    splits = features["splits"].values()
    return {key: sum(split[key] for split in splits) for key in ("rows", "bytes")}


def codec_table(same: Sequence[Json], runs: Sequence[Json], features: Json | None) -> Html:
    """Bytes an image by codec, for runs on features of one shape."""
    entries = same[0]["codecs"]
    most = max(entry["bytes"] for entry in entries)
    images = 1000 if features is None else sums(features)["rows"]
    rows: list[list[Content]] = []
    side = same[0]["backbone"].get("preprocessing")
    side = side.get("size") if isinstance(side, dict) else None
    if type(side) is int and 0 < side <= 1 << 13:
        pixels = 3 * side * side
        most = max(most, pixels)
        rows.append(codec_row(f"{side} x {side} pixels, uint8", None, pixels, most, images))
    for entry in entries:
        using = [run["letter"] for run in same if run["features"].get("codec") == entry["codec"]]
        used: Content = None
        if using:
            used = [" ", badges(runs, using) or "← trained on"]
        rows.append(codec_row(entry["codec"], used, entry["bytes"], most, images, entry["tokens"]))
    head: list[Content] = ["stored as", "tokens", "an image", "", f"{images:,} images"]
    return table(head, rows, "Features by codec, and pixels to compare")


def codec_row(
    what: str, used: Content, count: int, most: int, images: int, tokens: int | None = None
) -> list[Content]:
    """A line of the table of codecs."""
    first = tag("b", what, used) if used else what
    drawn = meter(count / most, "var(--s1)" if tokens else "var(--soft)")
    return [first, tokens, f"{count:,} B", drawn, byte_count(count * images)]
