"""What the sections of a report share: headings, badges of runs, what is missing, its own style."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer_lite.charts import colour
from trainer_lite.config import TrainConfig
from trainer_lite.page_parts import Content, Html, tag

Json = dict[str, Any]

STYLE = Path(__file__).with_name("report.css")


def report_style() -> str:
    """What a report adds to the style of our pages."""
    return STYLE.read_text(encoding="utf-8")


def heading(anchor: str, title: str, about: Content, content: Content) -> Html:
    """A section of the page."""
    return tag("section", tag("h2", title), tag("p", about) if about else None, content, id=anchor)


def index_of(run: Json) -> int:
    """A run's place on the page, which its letter says."""
    return ord(run["letter"]) - ord("A")


def by_training(runs: Sequence[Json]) -> list[list[Json]]:
    """The adaptors that have a history, those of one training run together: its last, its best."""
    groups: dict[str, list[Json]] = {}
    for run in runs:
        if run["history"] is not None:
            groups.setdefault(repr(run["history"]["adaptors"]), []).append(run)
    return list(groups.values())


def trained_path(runs: Sequence[Json]) -> str:
    """The first adaptor file among some runs, for a command that takes no graph."""
    return next((str(run["path"]) for run in runs if run["runtime"] == "numpy"), "ADAPTOR")


def without_history(runs: Sequence[Json]) -> str:
    """Which runs those are, behind "No curves": nothing where there is a single run."""
    letters = [run["letter"] for run in runs if run["history"] is None]
    return f" of {', '.join(letters)}" if len(runs) > 1 else ""


def badge(run: Json) -> Html:
    """A run's letter, in a ring of its colour."""
    return tag("span", run["letter"], class_="badge", style=f"--c:{colour(index_of(run))}")


def badges(runs: Sequence[Json], letters: Sequence[str]) -> list[Html]:
    """The badges of some runs; none where there is a single run on the page."""
    return [badge(run) for run in runs if run["letter"] in letters and len(runs) > 1]


def missing(what: str, why: Content, *remedies: Html) -> Html:
    """What a section cannot show, why, and the commands that give it."""
    return tag("div", tag("b", what, ". "), why, remedies, class_="missing")


def command(*words: object, to: str | None = None) -> Html:
    """An edgetune command, as it is typed; its words are not broken where they fit a line."""
    typed = ["edgetune", *(shlex.quote(str(word)) for word in words)]
    if to is not None:
        typed += [">", shlex.quote(to)]
    return tag(
        "code",
        [
            [" " if index else None, tag("span", word, class_="word")]
            for index, word in enumerate(typed)
        ],
    )


def options_of(run: Json) -> list[object]:
    """The options of `train` that a run had and that are not the defaults."""
    given, options = run["training"], []
    kind = "linear" if given.get("kind") == "linear" else "attention"
    defaults = TrainConfig(kind=kind, init=given.get("init"))
    adaptor = run["config"]
    settled = defaults.settled(adaptor["embed_dim"], adaptor["prefix_tokens"])
    for key, default in settled.to_json().items():
        value = given.get(key, default)
        if value is not None and (value != default or value == "linear"):
            options += [f"--{key.replace('_', '-')}", value]
    return options


def run_heads(runs: Sequence[Json], first: str, only: str) -> list[Content]:
    """Heads of a table with a column a run; the column of a single run is called `only`."""
    return [first, *(badge(run) if len(runs) > 1 else only for run in runs)]


def meter(fraction: float, colour_of: str) -> Html:
    """A small bar in a cell."""
    width = f"width:{100 * min(max(fraction, 0.0), 1.0):.1f}%"
    return tag("span", tag("i", style=width), class_="meter", style=f"--c:{colour_of}")
