"""A report as one page that needs no network: what the runs are, their curves, and the sections
that other files draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainer_lite.charts import swatch
from trainer_lite.page_parts import (
    Content,
    Html,
    byte_count,
    document,
    mebibytes,
    name,
    percent,
    seconds,
    table,
    tag,
)
from trainer_lite.report_cost import memory, operations, transfer
from trainer_lite.report_judged import classes, details
from trainer_lite.report_learning import learning
from trainer_lite.report_origin import origin, training
from trainer_lite.report_parts import (
    badge,
    index_of,
    report_style,
)

Json = dict[str, Any]


def page(content: Json, thumbnails: Mapping[str, str] | None = None) -> str:
    """The page for what report.report gives.

    Args:
        thumbnails: data URIs by image path; None where no images were given.
    """
    sections = [
        learning(content["runs"]),
        classes(content),
        details(content, thumbnails),
        memory(content["runs"]),
        operations(content),
        transfer(content),
        origin(content),
        training(content["runs"]),
    ]
    foot = tag(
        "footer",
        tag(
            "p",
            f"Written by edgetune {content['edgetune']}. It loads nothing and runs no script.",
        ),
    )
    return document("edgetune report", report_style(), [header(content), sections, foot])


def header(content: Json) -> list[Html]:
    """What the runs are: tiles for one, a table for several."""
    runs = content["runs"]
    first = runs[0]
    kinds = sorted({(r["config"]["tokens"], r["config"]["embed_dim"]) for r in runs})
    shapes = ", ".join(f"{tokens} tokens x {dim}" for tokens, dim in kinds)
    counts = sorted({len(run["classes"]) for run in runs})
    models = dict.fromkeys(
        str(run["backbone"].get("model", "a backbone not named")) for run in runs
    )
    what = tag(
        "p",
        "1 adaptor" if len(runs) == 1 else f"{len(runs)} adaptors",
        " on features of ",
        [[", " if index else "", name(model)] for index, model in enumerate(models)],
        f": {shapes}; {' or '.join(map(str, counts))} classes.",
        class_="head",
    )
    links = tag(
        "nav",
        [tag("a", text, href=f"#{anchor}") for anchor, text in LINKS],
        aria_label="Sections",
    )
    title = tag("h1", "edgetune report")
    if len(runs) == 1:
        return [
            title,
            tag("p", tag("b", name(first["name"])), class_="one"),
            what,
            tiles(content),
            links,
        ]
    return [title, what, links, run_table(content)]


LINKS = (
    ("learning", "Learning"),
    ("classes", "Classes"),
    ("judged", "Mistakes"),
    ("memory", "Memory"),
    ("time", "Time"),
    ("transfer", "Transfer"),
    ("origin", "Origin"),
    ("training", "Options"),
)


def tiles(content: Json) -> Html:
    """The figures of one run."""
    (run,) = content["runs"]
    found, history, evaluation = [], run["history"], run["evaluation"]
    if evaluation is not None:
        found.append(
            (
                percent(evaluation["accuracy"]),
                f"on {content['split']}, {evaluation['images']:,} images",
            )
        )
    elif history is not None and history["test_accuracy"] is not None:
        found.append((percent(history["test_accuracy"]), "on test, last epoch"))
    best = best_epoch(run)
    if best is not None:
        found.append((percent(best["val_accuracy"]), f"on val, best epoch ({best['epoch']})"))
    found += [
        (f"{run['parameters']:,}", "trained parameters"),
        (byte_count(run["bytes"]), "adaptor file"),
        (
            f"{used_bytes(run):,} B",
            f"an image's features, {run['features'].get('codec', 'codec not named')}",
        ),
    ]
    if history is not None:
        found += [
            (seconds(history["seconds"]), f"training, {history['steps']:,} steps"),
            (mebibytes(history["memory"]["peak_rss_bytes"]), "peak RSS, measured"),
        ]
    return tag(
        "div",
        [tag("div", tag("b", a), tag("span", b), class_="tile") for a, b in found],
        class_="tiles",
    )


def used_bytes(run: Json) -> int:
    """Bytes an image in the codec that a run was trained on."""
    codec = run["features"].get("codec")
    sizes = {entry["codec"]: int(entry["bytes"]) for entry in run["codecs"]}
    return sizes.get(str(codec), next(iter(sizes.values())))


def best_epoch(run: Json) -> Json | None:
    """The epoch with the best validation accuracy, where there is a history and was a val split."""
    history = run["history"]
    if history is None or history["best_epoch"] is None:
        return None
    found: Json = history["epochs"][history["best_epoch"] - 1]
    return found if found["val_accuracy"] is not None else None


def run_table(content: Json) -> Html:
    """A line a run."""
    head = ["run", f"on {content['split']}" if content["split"] else "test, last epoch"]
    head += ["best val", "adaptor", "parameters", "file", "epochs", "time", "peak RSS"]
    rows = [run_row(run) for run in content["runs"]]
    return tag("section", table(head, rows, "The runs of this page", "wide"))


def run_row(run: Json) -> list[Content]:
    """A run's figures; those of its own test split where it was not judged here."""
    evaluation = run["evaluation"]
    tested = of_history(run, lambda history: percent(history["test_accuracy"]))
    return [
        [swatch(index_of(run)), " ", badge(run), " ", name(run["name"])],
        tag("b", percent(evaluation["accuracy"])) if evaluation else tested,
        percent((best_epoch(run) or {}).get("val_accuracy")),
        shape(run),
        f"{run['parameters']:,}",
        byte_count(run["bytes"]),
        of_history(run, lambda history: f"{len(history['epochs']):,}"),
        of_history(run, lambda history: seconds(history["seconds"])),
        of_history(run, lambda history: mebibytes(history["memory"]["peak_rss_bytes"])),
    ]


def of_history(run: Json, show: Callable[[Json], str]) -> str:
    """A figure of a run's history; a dash where there is none."""
    return "–" if run["history"] is None else show(run["history"])


def shape(run: Json) -> str:
    """An adaptor's shape in a few words."""
    config, words = run["config"], []
    if config["kind"] == "linear":
        words.append("linear")
    else:
        words.append(f"{config['blocks']} blocks of rank {config['rank']}")
    words.append(config["pool"])
    if run["runtime"] != "numpy":
        words.append(run["runtime"])
    return ", ".join(words)
