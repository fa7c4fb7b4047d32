"""A folder of images with one folder a class, in splits or not, as a list in a fixed order.

Two layouts: `CLASS/*`, which is all train, or `{train,val,test}/CLASS/*`, val and test optional.
Folders below a class are searched too. Paths are relative, with `/` on every system.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_runtime.errors import DataError
from edge_runtime.preprocess import readable_suffixes

SPLITS = ("train", "val", "test")
LAYOUT = "expected one folder for each class, or train/, val/ and test/ with these inside"


@dataclass(frozen=True)
class ImageFile:
    """One image: its path below the root, the index of its class, its size in bytes; or, where it
    has a mask, the path and the size of that, and no class."""

    path: str
    label: int
    bytes: int
    mask: str = ""
    mask_bytes: int = 0


@dataclass(frozen=True)
class ImageFolder:
    """Images by split, each sorted by path; `ignored` counts files that are no images."""

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, tuple[ImageFile, ...]]
    ignored: int
    masked: bool = False


def scan(root: Path) -> ImageFolder:
    """Lists the images below `root`, without opening any.

    Raises:
        DataError: missing, empty or in neither layout; fewer than two classes; a class of val or
            test that train lacks; names that are not UTF-8.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root} {what}; {LAYOUT}")
    found = {}
    ignored = 0
    for split, folder in _split_folders(root).items():
        prefix = "" if folder == root else f"{split}/"
        found[split], others = _class_files(root, folder, prefix)
        ignored += others
    classes = _classes(root, found)
    if set(classes) == {"images", "masks"}:
        raise DataError(
            f"{root} has images/ and masks/ in place of classes; for segmentation put both into "
            f"train/ (val/, test/), and beside it classes.txt, a name a line (if they are two "
            f"classes, rename them)"
        )
    labels = {name: label for label, name in enumerate(classes)}
    splits = {
        split: tuple(
            ImageFile(path, labels[name], size)
            for path, name, size in sorted(
                (path, name, size) for name, files in members.items() for path, size in files
            )
        )
        for split, members in found.items()
    }
    return ImageFolder(root, classes, splits, ignored)


def _split_folders(root: Path) -> dict[str, Path]:
    """The layout: folder of each split; {"train": root} where there are no splits."""
    names = {entry.name for entry in _entries(root) if entry.is_dir()}
    if not names & set(SPLITS):
        return {"train": root}
    splits = {split: root / split for split in SPLITS if split in names}
    others = sorted(names - set(SPLITS))
    if others and any(_images_inside(folder) for folder in splits.values()):
        return {"train": root}  # a class happens to be called train, val or test
    if others:
        raise DataError(
            f"{root} has {others[0]}/ beside {next(iter(splits))}/; name split folders train, val "
            f"and test, and put every class folder inside them"
        )
    if "train" not in splits:
        raise DataError(f"{root} has {next(iter(splits))}/ but no train/; {LAYOUT}")
    return splits


Files = list[tuple[str, int]]


def _class_files(root: Path, folder: Path, prefix: str) -> tuple[dict[str, Files], int]:
    """(path, bytes) of the images of each class folder in `folder`, and how many files are none."""
    stray = _images_inside(folder)
    if stray:
        raise DataError(f"{folder / stray[0]} lies in no class folder; move it into one ({LAYOUT})")
    members: dict[str, Files] = {}
    ignored = 0
    for entry in _entries(folder):
        if not entry.is_dir():
            continue
        files = []
        for path, size in walk(folder / entry.name, f"{prefix}{entry.name}/", ()):
            if is_image(path):
                files.append((path, size))
            else:
                ignored += 1
        if not files:
            raise DataError(f"{folder / entry.name} holds no images; add some or remove the folder")
        members[entry.name] = files
    if not members:
        raise DataError(f"{folder} holds no images; {LAYOUT}")
    return members, ignored


def _classes(root: Path, found: dict[str, dict[str, Files]]) -> tuple[str, ...]:
    classes = tuple(sorted(found["train"]))
    for split, members in found.items():
        unknown = sorted(set(members) - set(classes))
        if unknown:
            raise DataError(
                f"{root / split / unknown[0]}: train/ has no class {unknown[0]!r}; add it there or "
                f"remove it from {split}/"
            )
    if len(classes) < 2:
        raise DataError(
            f"{root} has a single class ({classes[0]!r}); at least two are needed to tell apart"
        )
    return classes


def walk(
    folder: Path, prefix: str, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, int]]:
    """(path, bytes) of all files below; links are followed, `above` are the folders on the way."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise DataError(f"{folder} is a link back to a folder that holds it; remove the link")
    for entry in _entries(folder):
        if entry.is_dir():
            yield from walk(folder / entry.name, f"{prefix}{entry.name}/", (*above, here))
        elif entry.is_file():
            yield prefix + entry.name, entry.stat().st_size
        elif entry.is_symlink():  # leads nowhere: kept, so that it is named as unreadable
            yield prefix + entry.name, 0


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, by name."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in visible:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(entry.path).decode("utf-8", "backslashreplace")
            raise DataError(f"{shown}: the name is not UTF-8; rename it") from None
    return sorted(visible, key=lambda entry: entry.name)


def _images_inside(folder: Path) -> list[str]:
    """Names of the images that lie directly in a folder."""
    return [e.name for e in _entries(folder) if not e.is_dir() and is_image(e.name)]


def is_image(path: str) -> bool:
    """Whether a path ends as those of images do that Pillow reads."""
    return PurePosixPath(path).suffix.lower() in readable_suffixes()
