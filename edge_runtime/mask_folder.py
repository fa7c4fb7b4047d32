"""A folder of images with a mask each: `SPLIT/images/NAME.jpg`, `SPLIT/masks/NAME.png`, and
`classes.txt`, a name a line; the index of a line is what pixels of that class hold.

SPLIT is train, val or test; the latter two are optional. A pixel of 255 is ignored. Folders below
images/ are searched too, and masks/ is laid out like it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edge_runtime.config import IGNORED
from edge_runtime.errors import DataError, FormatError, MismatchError, MissingExtraError, require
from edge_runtime.image_folder import SPLITS, ImageFile, ImageFolder, is_image, walk
from edge_runtime.preprocess import Preprocessing, plan, reason

Array = np.ndarray[Any, Any]

CLASSES, IMAGES, MASKS = "classes.txt", "images", "masks"
LAYOUT = f"expected {CLASSES} and train/, val/ or test/ with {IMAGES}/ and {MASKS}/ inside"
GREY, PALETTE = 0, 3  # colour types of PNG


def has_masks(root: Path) -> bool:
    """Whether a folder is in this layout: classes.txt, and a split with images/ and masks/."""
    splits = (root / split for split in SPLITS)
    return (root / CLASSES).is_file() and any(
        (split / IMAGES).is_dir() and (split / MASKS).is_dir() for split in splits
    )


def scan_masks(root: Path) -> ImageFolder:
    """Lists images and masks below `root`, without opening any.

    Raises:
        DataError: an image without a mask, a split without either folder, no train/, no images.
        FormatError: classes.txt is not a list of 2 to 255 names that differ.
    """
    classes = read_classes(root / CLASSES)
    splits, ignored = {}, 0
    for split in SPLITS:
        if not (root / split).is_dir():
            continue
        for name in (IMAGES, MASKS):
            if not (root / split / name).is_dir():
                raise DataError(f"{root / split} has no {name}/; {LAYOUT}")
        splits[split], others = _pairs(root, split)
        ignored += others
    if "train" not in splits:
        raise DataError(f"{root} has {next(iter(splits))}/ but no train/; {LAYOUT}")
    return ImageFolder(root, classes, splits, ignored, masked=True)


def read_classes(path: Path) -> tuple[str, ...]:
    """The names in a classes.txt, in order; FormatError where they are not 2 to 255 that differ."""
    try:
        names = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise FormatError(f"{path} is not UTF-8 text; write a class name on each line") from None
    while names and not names[-1]:
        names.pop()
    for number, name in enumerate(names, 1):
        if not name or name in names[: number - 1]:
            what = f"repeats {name!r}" if name else "is empty"
            raise FormatError(f"{path}: line {number} {what}; each class needs a name of its own")
    if not 2 <= len(names) <= IGNORED:
        raise FormatError(
            f"{path} names {len(names)} classes; write 2 to {IGNORED}, one a line, the background "
            f"among them"
        )
    return tuple(names)


def load_mask(path: Path, image: Path, preprocessing: Preprocessing, classes: int) -> Array:
    """The mask of an image, as its pixels are resized and cropped: uint8 [size, size].

    Nearest neighbours, so that no class comes up that is not there; what the crop has beyond the
    image is IGNORED.

    Raises:
        DataError: the file cannot be read; says nothing of this machine.
        FormatError: not 8-bit grey or with a palette.
        MismatchError: it is not as large as the image, or holds an index of no class.
    """
    pillow = require("PIL.Image", extra="vision")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pillow.open(image) as opened:
                expected = opened.size
            with open(path, "rb") as file:
                head = file.read(26)
                file.seek(0)
                with pillow.open(file, formats=["PNG"]) as opened:
                    _check_kind(path, head)
                    opened.load()
                    mask = opened.copy()
    except (MemoryError, MissingExtraError, FormatError):
        raise
    except Exception as error:  # decoders raise anything on damaged files
        raise DataError(f"its mask cannot be read ({reason(error)})") from None
    if mask.size != expected:
        raise MismatchError(
            f"{path} is {mask.size[0]} x {mask.size[1]} pixels and its image {image.name} "
            f"{expected[0]} x {expected[1]}; make them of one size"
        )
    _check_indices(path, np.asarray(mask), classes)
    return _cropped(mask, preprocessing, pillow.Resampling.NEAREST)


def _check_kind(path: Path, head: bytes) -> None:
    """By the PNG header: Pillow would stretch narrow greys, and turn 16 bits into 8."""
    depth, colour = head[24], head[25]
    if colour != PALETTE and (colour, depth) != (GREY, 8):
        raise FormatError(
            f"{path} is not 8-bit grey or with a palette; save class indices as a PNG of mode L or "
            f"P"
        )


def _check_indices(path: Path, mask: Array, classes: int) -> None:
    present = np.flatnonzero(np.bincount(mask.reshape(-1), minlength=IGNORED))
    wrong = [int(index) for index in present if classes <= index != IGNORED]
    if wrong:
        raise MismatchError(
            f"{path} holds the index {wrong[0]}, and {CLASSES} names {classes} classes, 0 to "
            f"{classes - 1}; name it there, or use {IGNORED} for what has no class"
        )


def _cropped(mask: Any, preprocessing: Preprocessing, nearest: Any) -> Array:
    """As `preprocess.prepare` does with the image."""
    size = preprocessing.size
    resized, (left, top, right, bottom) = plan(mask.size[0], mask.size[1], preprocessing)
    width, height = resized
    mask = np.asarray(mask if mask.size == resized else mask.resize(resized, nearest))
    out = np.full((size, size), IGNORED, np.uint8)
    rows = slice(max(0, top), min(bottom, height))
    columns = slice(max(0, left), min(right, width))
    inside = mask[rows, columns]
    out[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = inside
    return out


def _pairs(root: Path, split: str) -> tuple[tuple[ImageFile, ...], int]:
    """The images of a split with their masks, and how many files are neither."""
    images, masks = f"{split}/{IMAGES}/", f"{split}/{MASKS}/"
    sizes = dict(walk(root / split / MASKS, masks, ()))
    found: list[ImageFile] = []
    ignored, used = 0, set()
    for path, size in walk(root / split / IMAGES, images, ()):
        if not is_image(path):
            ignored += 1
            continue
        mask = masks + str(PurePosixPath(path[len(images) :]).with_suffix(".png"))
        if mask not in sizes:
            raise DataError(
                f"{root / path} has no mask, {root / mask} is not there; add it, or remove the "
                f"image"
            )
        used.add(mask)
        found.append(ImageFile(path, 0, size, mask, sizes[mask]))
    if not found:
        raise DataError(f"{root / split / IMAGES} holds no images; {LAYOUT}")
    return _sorted(found), ignored + len(set(sizes) - used)


def _sorted(files: Sequence[ImageFile]) -> tuple[ImageFile, ...]:
    return tuple(sorted(files, key=lambda file: file.path))
