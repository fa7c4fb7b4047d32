"""How files of ours name each other by hash: backbone <- features <- adaptor, and what of it holds.

A feature folder names the backbone that it came from by identity, an adaptor both the backbone and
the features that it was trained on, and, if it was made from another adaptor, that one by the
sha256 of its file. Each is checked for itself first (docs/formats.md says how).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime import formats
from edge_runtime.describe import describe
from edge_runtime.errors import EdgeError

KINDS = {
    formats.BACKBONE: "backbone",
    formats.FEATURES: "features",
    formats.ADAPTOR: "adaptor",
    formats.GRAPH: "adaptor",
}

INIT = "the adaptor it started from,"  # by the sha256 of its file


@dataclass(frozen=True)
class Link:
    """One path: what it is, who it says it is, in which basis, and whom it names (kind ->
    identity). A basis lies in the file itself or in its folder, and is checked with it."""

    path: Path
    kind: str
    identity: str | None
    basis: str | None = None
    names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One thing that was checked; `holds` is None where nothing given says yes or no."""

    holds: bool | None
    text: str


def verify(paths: Sequence[Path]) -> list[Finding]:
    """Checks each path for itself, then what each says of the others."""
    findings, links = [], []
    for path in paths:
        try:
            content = describe(path, verify=True)
        except (EdgeError, OSError) as error:
            findings.append(Finding(False, str(error)))
            continue
        link = link_of(path, content)
        links.append(link)
        known = "" if link.identity is None else f" {link.identity[:12]}"
        basis = "" if link.basis is None else f", in basis {link.basis[:12]}"
        findings.append(Finding(True, f"{path}: {link.kind}{known}{basis}, {intact(link)}"))
    for link in links:
        findings += named(link, links)
    return findings


def link_of(path: Path, content: formats.Json) -> Link:
    """What `describe` says of a path, as a link of the chain."""
    kind = KINDS.get(str(content.get("format")), "shard")
    names = {}
    for other in ("backbone", "features") if kind != "backbone" else ():
        entry = content.get(other)
        if isinstance(entry, dict) and isinstance(entry.get("identity"), str):
            names[other] = entry["identity"]
    training = content.get("training")
    if isinstance(training, dict) and isinstance(training.get("init"), str):
        names[INIT] = training["init"]
    found = content.get("identity")
    basis = content.get("basis")
    basis = str(basis.get("identity")) if isinstance(basis, dict) else None
    return Link(path, kind, found if isinstance(found, str) else None, basis, names)


def intact(link: Link) -> str:
    """What was compared."""
    return {
        "backbone": "manifest and graph as they were exported",
        "features": "manifest and every shard as they were extracted",
        "adaptor": "readable; it keeps no hash of itself, its sha256 is "
        + (sha256(link)[:12] if link.path.is_file() else ""),
    }.get(link.kind, "readable; its folder's manifest has its hash")


def sha256(link: Link) -> str:
    """Of an adaptor's file; it keeps none of itself."""
    return formats.file_sha256(link.path)


def named(link: Link, links: Sequence[Link]) -> list[Finding]:
    """Whether those that a link names are the ones given."""
    findings = []
    for kind, identity in link.names.items():
        if kind == INIT:  # several adaptors may be given that have nothing to do with each other
            there, given = [o for o in links if o.path.is_file() and sha256(o) == identity], []
        else:
            given = [other for other in links if other.kind == kind]
            there = [other for other in given if other.identity == identity]
        what = f"{link.path} names {kind} {identity[:12]}"
        if there:
            findings.append(Finding(True, f"{what}: that is {there[0].path}"))
        elif given:
            findings.append(Finding(False, f"{what}: none of those given is that one"))
        else:
            findings.append(Finding(None, f"{what}: not given, not checked"))
    return findings
