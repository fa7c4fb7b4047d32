"""Reading a task's images where the user has them, into one folder that `edgetune extract` takes.

| layout | found by | splits |
|---|---|---|
| VTAB-1k lists | train800.txt | those of the lists |
| class folders | train/CLASS/* | train, val and test; without val, 800 and 200 drawn of train |
| Hugging Face parquet | *.parquet, also in data/ | the same, by the files' names |
| torchvision | no such file, a task that torchvision knows | 800 and 200 drawn of its train |

What is drawn is drawn by a fixed seed and is **not** VTAB-1k's own split: results say so.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Union

from benchmarks.protocols.tasks import Task
from edge_runtime import atomic
from edge_runtime.errors import DataError, require
from edge_runtime.image_folder import scan

TRAIN, VAL = 800, 200
LISTS = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt"}

Image = Union[Path, Callable[[], Any]]  # a file, or what gives a Pillow image
Items = list[tuple[Image, int]]


@dataclass(frozen=True)
class TaskData:
    """Images and labels by split. `drawn`: the 800 and 200 are ours, not VTAB-1k's."""

    splits: dict[str, Items]
    classes: Sequence[str]
    drawn: bool


def read_task(root: Path, task: Task) -> TaskData:
    """A task's images in whichever layout it has below `root`.

    Raises:
        DataError: nothing there in any layout, or lists that name what is not there.
    """
    folder = root / task.name
    if (folder / LISTS["train"]).is_file():
        return read_lists(folder)
    if (folder / "train").is_dir():
        return read_class_folders(folder)
    if list(folder.glob("*.parquet")) or list(folder.glob("data/*.parquet")):
        return read_parquet(folder)
    if task.torchvision and folder.is_dir():
        return read_torchvision(folder, task)
    also = ", or as torchvision stores it" if task.torchvision else ""
    raise DataError(
        f"{folder} holds no task: expected {LISTS['train']}, train/CLASS/* or *.parquet{also}"
    )


def read_lists(folder: Path) -> TaskData:
    """train800.txt, val200.txt and test.txt: lines of a path and a label."""
    splits: dict[str, Items] = {}
    for split, name in LISTS.items():
        splits[split] = []
        for number, line in enumerate((folder / name).read_text().splitlines(), 1):
            path, _, label = line.strip().rpartition(" ")
            if not path or not label.isdigit():
                raise DataError(f"{folder / name}:{number}: expected a path and a label")
            if not (folder / path).is_file():
                raise DataError(f"{folder / name}:{number}: {folder / path} does not exist")
            splits[split].append((folder / path, int(label)))
    return TaskData(splits, numbered(splits), drawn=False)


def read_class_folders(folder: Path) -> TaskData:
    """{train,val,test}/CLASS/*, as torchvision's ImageFolder and Hugging Face's imagefolder."""
    found = scan(folder)
    splits: dict[str, Items] = {
        split: [(folder / file.path, file.label) for file in files]
        for split, files in found.splits.items()
    }
    return completed(splits, found.classes, folder)


def read_parquet(folder: Path) -> TaskData:
    """Parquet files of Hugging Face's datasets: an image column of bytes, and a label column."""
    parquet = require("pyarrow.parquet", extra="bench")
    splits: dict[str, Items] = {}
    classes: Sequence[str] = ()
    for path in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]):
        split = {"validation": "val"}.get(path.name.split("-")[0], path.name.split("-")[0])
        table = parquet.read_table(path)
        names = set(table.column_names)
        label = next((name for name in ("label", "labels", "cls") if name in names), None)
        image = next((name for name in ("image", "img", "webp", "jpg") if name in names), None)
        if label is None or image is None:
            raise DataError(f"{path}: expected columns image and label, found {sorted(names)}")
        noted = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = noted.get("info", {}).get("features", {}).get(label, {})
        classes = feature.get("names", classes)
        column = table.column(image).to_pylist()
        for cell, number in zip(column, table.column(label).to_pylist()):
            data = cell["bytes"] if isinstance(cell, dict) else cell
            splits.setdefault(split.removesuffix(".parquet"), []).append((opener(data), number))
    return completed(splits, classes or numbered(splits), folder)


def opener(data: bytes) -> Callable[[], Any]:
    """Decodes an image when it is asked for."""
    return lambda: require("PIL.Image", extra="vision").open(io.BytesIO(data))


def read_torchvision(folder: Path, task: Task) -> TaskData:
    """A dataset that torchvision can read below `folder`; nothing is downloaded."""
    from export.torchvision_repair import import_timm

    import_timm()  # makes torchvision importable beside CPU torch
    kind = getattr(require("torchvision.datasets", extra="export"), task.torchvision)

    def items(**which: Any) -> Items:
        try:
            dataset = kind(folder, download=False, **which)
        except (RuntimeError, OSError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{folder}: torchvision.{task.torchvision}: {reason}") from None
        found: Items = []
        for index in range(len(dataset)):
            label = dataset[index][1]
            found.append((partial(image_of, dataset, index), int(label)))
        return found

    if task.torchvision == "EuroSAT":
        return completed({"train": items()}, (), folder)
    if task.torchvision == "CIFAR100":
        train, test = items(train=True), items(train=False)
    else:
        first = "trainval" if task.torchvision == "OxfordIIITPet" else "train"
        last = "val" if task.torchvision == "CLEVRClassification" else "test"
        train, test = items(split=first), items(split=last)
    return completed({"train": train, "test": test}, (), folder)


def image_of(dataset: Any, index: int) -> Any:
    """The image of a torchvision dataset's entry."""
    return dataset[index][0]


def completed(splits: dict[str, Items], classes: Sequence[str], folder: Path) -> TaskData:
    """Draws 800 images to train on and 200 to validate on, where a set is larger or has no val.

    Without a test split the rest of train is the test split.
    """
    if not splits.get("train"):
        raise DataError(f"{folder} has no train split")
    sizes = {name: len(items) for name, items in splits.items()}
    drawn = "val" not in splits or (sizes["train"], sizes["val"]) != (TRAIN, VAL)
    if drawn:
        rest = [*splits["train"], *splits.get("val", [])]
        random.Random(f"vtab {len(rest)}").shuffle(rest)
        if len(rest) < 5:
            raise DataError(f"{folder} has {len(rest)} images; at least 5 are needed")
        count = min(TRAIN + VAL, len(rest))
        train = count * TRAIN // (TRAIN + VAL)
        test = splits.get("test") or rest[count:]
        splits = {"train": rest[:train], "val": rest[train:count], "test": test}
    if not splits.get("test"):
        raise DataError(f"{folder} has no test split, and none is left to test on")
    return TaskData(splits, classes or numbered(splits), drawn)


def numbered(splits: dict[str, Items]) -> Sequence[str]:
    """Names for classes that have numbers alone."""
    highest = max(label for items in splits.values() for _, label in items)
    return [f"{number:03}" for number in range(highest + 1)]


def write_set(data: TaskData, out: Path) -> None:
    """Writes train/CLASS/{train,val}-* and test/CLASS/*: links to files, PNGs of what is decoded.

    Test images of classes that neither train nor val has are left out and counted in unseen.json:
    whoever reports accuracy counts them as wrong.
    """
    building = atomic.partial_path(out)
    atomic.remove(building)
    seen = {label for split in ("train", "val") for _, label in data.splits[split]}
    unseen = 0
    for split, items in data.splits.items():
        for number, (image, label) in enumerate(items):
            if label not in seen:
                unseen += 1
                continue
            parent = "test" if split == "test" else "train"
            folder = building / parent / data.classes[label].replace("/", "_")
            folder.mkdir(parents=True, exist_ok=True)
            if isinstance(image, Path):
                (folder / f"{split}-{number:06}{image.suffix}").symlink_to(image.resolve())
            else:
                image().convert("RGB").save(folder / f"{split}-{number:06}.png")
    (building / "unseen.json").write_text(json.dumps({"images": unseen, "drawn": data.drawn}))
    atomic.publish_folder(building, out)
