"""Sections of a report on where an adaptor comes from: the chain of hashes, versions, options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trainer_lite.page_parts import Content, Html, byte_count, name, shortened, table, tag
from trainer_lite.report_parts import badges, command, heading, run_heads

Json = dict[str, Any]

ABOUT_BACKBONE = ("k", "graph_version", "weights_sha256", "onnx_sha256")


def origin(content: Json) -> Html:
    """Backbone, features and adaptor, each by its hash; and what they were made with."""
    runs, features = content["runs"], content["features"]
    columns = [
        cards(runs, "backbone", lambda run: str(run["backbone"].get("identity")), backbone_card),
        cards(
            runs,
            "features",
            lambda run: str(run["features"].get("identity")),
            lambda run: features_card(run, features),
        ),
        cards(runs, "adaptor", lambda run: run["letter"], adaptor_card),
    ]
    arrow = tag("span", "→", aria_hidden="true")
    kind = "chain many" if len(runs) > 2 else "chain"
    chain = tag("div", columns[0], arrow, columns[1], arrow, columns[2], class_=kind)
    given = "FEATURES" if features is None else features["path"]
    again = command("verify", "BACKBONE", given, *(run["path"] for run in runs))
    check = tag("p", "Every hash anew, and whether they fit: ", again, class_="note")
    about = "Each names the one before it by a hash, so none can be taken for another."
    return heading("origin", "Where it comes from", about, [chain, check, versions(content)])


def cards(
    runs: Sequence[Json],
    kind: str,
    key: Callable[[Json], str],
    card: Callable[[Json], list[Content]],
) -> Html:
    """A card for each of several things of a kind, with the badges of the runs that share it."""
    groups: dict[str, list[Json]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return tag(
        "ul",
        [
            tag(
                "li",
                tag("span", kind, " "),
                badges(runs, [r["letter"] for r in same]),
                card(same[0]),
            )
            for same in groups.values()
        ],
    )


def backbone_card(run: Json) -> list[Content]:
    """A backbone."""
    backbone = run["backbone"]
    size = backbone.get("preprocessing")
    size = size.get("size") if isinstance(size, dict) else None
    known = [f"k = {short(backbone.get('k'))}", f"{size} px" if type(size) is int else None]
    return [
        tag("b", name(short(backbone.get("model", "not named")))),
        tag("span", ", ".join(text for text in known if text)),
        *hashes("identity", backbone.get("identity")),
        *hashes("weights", backbone.get("weights_sha256")),
    ]


def features_card(run: Json, given: Json | None) -> list[Content]:
    """The features that a run was trained on."""
    features = run["features"]
    parts: list[Content] = [
        tag("b", name(short(features.get("codec", "codec not named")))),
        *hashes("identity", features.get("identity")),
    ]
    if given is not None:
        if features.get("identity") == given["identity"]:
            parts.append(
                tag("span", "✓ the folder given here: ", name(given["path"]), class_="good")
            )
        else:
            told = ["✗ judged here on others: ", name(given["path"]), " "]
            parts.append(tag("span", told, tag("code", given["identity"][:12]), class_="bad"))
    return parts


def adaptor_card(run: Json) -> list[Content]:
    """An adaptor file."""
    return [
        tag("b", name(run["name"])),
        tag("span", f"{byte_count(run['bytes'])}, {run['parameters']:,} parameters"),
        *hashes("sha256", run["sha256"]),
    ]


def hashes(what: str, value: Any) -> list[Content]:
    """A hash in full, to compare and to search for."""
    text = short(value) if isinstance(value, str) else "not known"
    return [tag("div", tag("span", f"{what} "), tag("code", text))]


def versions(content: Json) -> Content:
    """What trained the runs, and what extracted the features that were given."""
    runs, features = content["runs"], content["features"]
    found: dict[str, list[str]] = {}
    for place, run in enumerate(runs):
        for key, value in (run["history"] or {"versions": {}})["versions"].items():
            found.setdefault(shortened(str(key)), ["–"] * len(runs))[place] = short(value)
    parts: list[Content] = []
    if found:
        rows = [[name(key), *map(name, values)] for key, values in sorted(found.items())]
        head = run_heads(runs, "trained with", "version")
        parts.append(table(head, rows, "Versions at training"))
    if features is not None and isinstance(features["versions"], dict) and features["versions"]:
        rows = [
            [name(str(key)), name(short(value))]
            for key, value in sorted(features["versions"].items())
        ]
        parts.append(table(["extracted with", "version"], rows, "Versions at extraction"))
    return tag("div", parts, class_="pair versions") if parts else None


def training(runs: Sequence[Json]) -> Html:
    """The options of each run, and the shape that came of them."""
    about = None if len(runs) == 1 else "Those marked ≠ differ between the runs."
    options = values_of(runs, "training", "option", "Options of training")
    shape = values_of(runs, "config", "entry", "Configuration of the adaptor")
    return heading("training", "Training options", about, tag("div", options, shape, class_="pair"))


def values_of(runs: Sequence[Json], part: str, first: str, caption: str) -> Html:
    """Entries of one part of every run; those that differ come first."""
    keys = list(dict.fromkeys(str(key) for run in runs for key in run[part]))
    listed = [(key, [short(run[part].get(key, "–")) for run in runs]) for key in keys]
    listed.sort(key=lambda entry: len(set(entry[1])) == 1)  # stable: in each half as it was
    rows: list[list[Content]] = []
    for key, values in listed:
        differ = len(set(values)) > 1
        shown = [tag("b", name(value)) if differ else name(value) for value in values]
        rows.append([[tag("b", name(key), " ≠") if differ else name(key)], *shown])
    return table(run_heads(runs, first, "value"), rows, caption)


def short(value: Any) -> str:
    """A value from a file, as text that a page can bear."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return shortened(str(value), 70)
