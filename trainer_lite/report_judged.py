"""Sections of a report that come from judging features: accuracy by class, what is taken for what,
and the worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer_lite.charts import colour, matrix
from trainer_lite.page_parts import Content, Html, name, percent, shortened, table, tag
from trainer_lite.report_parts import badge, command, heading, meter, missing

Json = dict[str, Any]

MOST_CLASSES = 60  # listed by accuracy
MOST_BARS = 4  # runs whose accuracies are drawn, and not only written
MOST_NUMBERS = 20  # classes whose confusion is shown in numbers
PAIRS = 12  # most frequent mistakes listed
DEEPEST = 0.55  # opacity of a cell's colour: ink on it stays readable


def not_judged(content: Json, what: str) -> Html:
    """Why there are no predictions to show."""
    paths = [run["path"] for run in content["runs"]]
    if content["features"] is None:
        remedy = command("report", *paths, "--features", "FEATURES", "--html", "FILE")
        return missing(what, "No features were given to judge the adaptors on: ", remedy)
    folder = content["features"]["path"]
    why = [
        name(folder),
        " has neither a test nor a val split. Extract images in train/, val/ and test/: ",
    ]
    return missing(
        what, why, command("extract", "IMAGES", "--backbone", "BACKBONE", "--out", folder)
    )


def classes(content: Json) -> Html:
    """Accuracy of each class, the hardest first, a column a run."""
    runs, split = content["runs"], content["split"]
    title = "Accuracy by class"
    if split is None:
        return heading("classes", title, None, not_judged(content, "No accuracy by class"))
    few = len(runs) <= MOST_BARS
    names, counts = runs[0]["classes"], [sum(row) for row in runs[0]["evaluation"]["confusion"]]
    found = [run["evaluation"]["per_class"] for run in runs]

    def mean(index: int) -> float:
        known = [one[index] for one in found if one[index] is not None]
        return sum(known) / len(known) if known else 2.0  # without images: last

    order = sorted(range(len(names)), key=mean)
    shown = order[:MOST_CLASSES]
    rows: list[list[Content]] = []
    for index in shown:
        cells: list[Content] = [name(names[index]), f"{counts[index]:,}"]
        for place, run in enumerate(runs):
            accuracy = run["evaluation"]["per_class"][index]
            bar = None if accuracy is None else meter(accuracy, colour(place)) if few else None
            cells.append([bar, tag("span", percent(accuracy), class_="number")])
        rows.append(cells)
    whole: list[Content] = [tag("b", "all"), tag("b", f"{sum(counts):,}")]
    for place, run in enumerate(runs):
        accuracy = run["evaluation"]["accuracy"]
        number = tag("b", percent(accuracy), class_="number")
        whole.append([meter(accuracy, colour(place)) if few else None, number])
    head: list[Content] = ["class", "images"]
    head += ["accuracy"] if len(runs) == 1 else [badge(run) for run in runs]
    about = f"Of the {split} split, the hardest class first."
    if split == "val":
        about += " There is no test split, and val chose the best epoch: a little too good."
    parts = [table(head, [whole, *rows], f"Accuracy by class on {split}", "wide bars")]
    if len(order) > len(shown):
        rest = f"{len(order) - len(shown):,} more classes are at least as good."
        parts.append(tag("p", rest, class_="note"))
    return heading("classes", title, about, parts)


def details(content: Json, thumbnails: Mapping[str, str] | None) -> Html:
    """Of each run what it takes for what, and its worst mistakes."""
    runs, split = content["runs"], content["split"]
    title = "What is taken for what, and the worst mistakes"
    if split is None:
        return heading("judged", title, None, not_judged(content, "No predictions"))
    about = (
        f"On the {split} split. The worst mistakes are the wrong answers that an adaptor is surest "
        "of: a look at them finds wrong labels, doubtful images, classes that overlap."
    )
    parts: list[Content] = []
    if thumbnails is None and any(run["evaluation"]["wrong"] for run in runs):
        paths = [run["path"] for run in runs]
        given = ("--features", content["features"]["path"], "--images", "DIR")
        again = command("report", *paths, *given, "--html", "FILE")
        parts.append(
            missing("No thumbnails", "Give the folder that the images were extracted from: ", again)
        )
    if len(runs) == 1:
        return heading("judged", title, about, [parts, of_run(runs[0], thumbnails)])
    best = max(runs, key=lambda run: run["evaluation"]["accuracy"])
    for run in runs:
        accuracy = percent(run["evaluation"]["accuracy"])
        line = tag("summary", badge(run), " ", name(run["name"]), f", {accuracy}")
        parts.append(
            tag(
                "details", line, of_run(run, thumbnails), class_="run",
                open="" if run is best else None,
            )
        )  # fmt: skip
    return heading("judged", title, about, parts)


def of_run(run: Json, thumbnails: Mapping[str, str] | None) -> list[Content]:
    """Confusion and mistakes of one run."""
    evaluation, names = run["evaluation"], run["classes"]
    wrong, images = evaluation["wrong"], evaluation["images"]
    parts: list[Content] = [confused(names, evaluation["confusion"])]
    if not wrong:
        return [*parts, tag("p", f"No mistake in {images:,} images.", class_="note")]
    shown = evaluation["mistakes"]
    count = "All" if len(shown) == wrong else f"The {len(shown)} surest of"
    parts.append(tag("h3", f"{count} {wrong:,} wrong answers in {images:,} images"))
    parts.append(tag("ol", [card(entry, names, thumbnails) for entry in shown], class_="mistakes"))
    return parts


def confused(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> Html:
    """The matrix, in numbers where classes are few, else in shades; beside it what is commonest."""
    pairs = [
        (count, i, j)
        for i, row in enumerate(confusion)
        for j, count in enumerate(row)
        if count and i != j
    ]
    pairs.sort(key=lambda pair: -pair[0])
    few = len(names) <= MOST_NUMBERS
    parts = [in_numbers(names, confusion) if few else in_shades(names, confusion, pairs)]
    if pairs:
        commonest = [
            [[name(names[i]), " → ", name(names[j])], f"{n:,}", percent(n / sum(confusion[i]))]
            for n, i, j in pairs[:PAIRS]
        ]
        head = ["is → taken for", "images", "of its class"]
        parts.append(table(head, commonest, "The commonest mistakes", "pairs"))
    return tag("div", parts, class_="pair")


def in_shades(
    names: Sequence[str],
    confusion: Sequence[Sequence[int]],
    pairs: Sequence[tuple[int, int, int]],
) -> Html:
    """The matrix as a drawing."""
    told = ", ".join(f"{shortened(names[i])} for {shortened(names[j])}" for _, i, j in pairs[:3])
    about = "Rows are true classes, columns predicted ones, in the order of their names"
    drawing = matrix(
        f"Confusion of {len(names)} classes",
        f"{about}. Most often: {told or 'no mistake'}.",
        confusion,
    )
    note = tag("p", f"{about}; the diagonal is right.", class_="note")
    return tag("div", drawing, note)


def in_numbers(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> Html:
    """The matrix as a table: right ones and mistakes differ by place and by colour."""
    rows = []
    for index, row in enumerate(confusion):
        total = max(1, sum(row))
        cells: list[Content] = [name(names[index])]
        for other, count in enumerate(row):
            kind = "none" if not count else "right" if index == other else "wrong"
            share = count / total
            depth = min(DEEPEST, 0.1 + share * (0.45 if index == other else 1.5))
            cells.append(
                tag("td", count or "·", class_=kind, style=f"--v:{depth:.2f}" if count else None)
            )
        rows.append(cells)
    head: list[Content] = ["true ↓ taken for →", *(name(text) for text in names)]
    return table(
        head, rows, "Images: a row a true class, a column what it is taken for", "confusion"
    )


def card(entry: Json, names: Sequence[str], thumbnails: Mapping[str, str] | None) -> Html:
    """One mistake."""
    true, said, path = names[entry["label"]], names[entry["predicted"]], entry["path"]
    picture: Content = None
    if thumbnails is not None:
        data = thumbnails.get(path)
        alt = f"{shortened(true)}, taken for {shortened(said)}"
        picture = (
            tag("div", "no readable image of this path in --images", class_="gone")
            if data is None
            else tag("img", src=data, alt=alt, loading="lazy")
        )
    return tag(
        "li",
        picture,
        tag("span", "taken for ", name(said), class_="said"),
        f" {percent(entry['probability'])}",
        meter(entry["probability"], "var(--s2)"),
        tag("span", "is ", name(true), f" {percent(entry['probability_of_label'])}"),
        tag("span", tag("bdi", breakable(shortened(path, 80))), class_="path"),
    )


def breakable(path: str) -> list[Content]:
    """A path whose lines break behind its slashes, where they can."""
    first, *others = path.split("/")
    return [first, *(["/", tag("wbr"), part] for part in others)]
