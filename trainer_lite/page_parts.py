"""Pieces of a page that needs no network: elements that escape what they hold, and the style that
our pages share."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Union

STYLE = Path(__file__).with_name("page.css")
LONGEST_NAME = 60  # characters shown of a name that comes from a file
NOTHING_ELSE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # runs or loads


class Html(str):
    """Markup: text that is escaped already. Any other text is escaped where it is put in."""


Content = Union[str, int, Iterable["Content"], None]


def style() -> str:
    """The style of every page of ours."""
    return STYLE.read_text(encoding="utf-8")


def markup(content: Content) -> Html:
    """Escapes text, joins lists; None is nothing."""
    if content is None:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, (str, int)):
        return Html(html.escape(str(content)))
    return Html("".join(map(markup, content)))


def tag(element: str, *content: Content, **attributes: str | float | None) -> Html:
    """An element. Of attributes' names a final underscore goes, others become hyphens; one that
    is None is left out."""
    listed = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if element in ("img", "meta", "wbr"):
        return Html(f"<{element}{listed}>")
    return Html(f"<{element}{listed}>{markup(content)}</{element}>")


def name(text: str) -> Html:
    """A name from a file, no longer than a page can bear, its direction of writing its own."""
    return tag("bdi", shortened(text))


def shortened(text: str, longest: int = LONGEST_NAME) -> str:
    """The text, or its two ends."""
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def table(
    head: Iterable[Content], rows: Iterable[Iterable[Content]], caption: str, class_: str = ""
) -> Html:
    """A table in a box of its own that scrolls; the first cell of a row names it. Cells may be
    whole `td` elements."""
    columns = tag("tr", [tag("th", cell, scope="col") for cell in head])
    lines = [
        tag(
            "tr",
            [
                cell
                if isinstance(cell, Html) and cell.startswith("<td")
                else tag("td", cell)
                if index
                else tag("th", cell, scope="row")
                for index, cell in enumerate(row)
            ],
        )
        for row in rows
    ]
    inner = tag(
        "table",
        tag("caption", caption),
        tag("thead", columns),
        tag("tbody", lines),
        class_=class_ or None,
    )
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def document(title: str, more_style: str, body: Content) -> str:
    """A whole page, in which no script runs and which loads nothing."""
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=NOTHING_ELSE),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(style() + more_style)),
    ]
    page = tag("html", tag("head", head), tag("body", tag("main", body)), lang="en")
    return f"<!doctype html>\n{page}\n"


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction for people; a dash where there is none."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f}\u00a0%"


def mebibytes(count: int) -> str:
    return f"{count / 2**20:.2f}\u00a0MiB"


def byte_count(count: int) -> str:
    """Bytes for people, in the largest unit that leaves a whole part."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return (
                f"{count / size:.3g}\u00a0{unit}"
                if count < 999.5 * size
                else f"{count / size:.0f}\u00a0{unit}"
            )
    return f"{count}\u00a0B"


def seconds(count: float) -> str:
    """A time for people."""
    if count < 1e-3:
        return f"{count * 1e6:.3g}\u00a0µs"
    if count < 1:
        return f"{count * 1e3:.3g}\u00a0ms"
    if count < 120:
        return f"{count:.1f}\u00a0s"
    return f"{count / 60:.1f}\u00a0min" if count < 7200 else f"{count / 3600:.1f}\u00a0h"
