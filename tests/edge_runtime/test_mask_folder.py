"""Folders of images with masks: what is found, what is refused, and how a mask is cropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

image = pytest.importorskip("PIL.Image")

from edge_runtime.config import IGNORED  # noqa: E402
from edge_runtime.errors import DataError, EdgeError, FormatError, MismatchError  # noqa: E402
from edge_runtime.image_folder import scan  # noqa: E402
from edge_runtime.mask_folder import has_masks, load_mask, scan_masks  # noqa: E402
from edge_runtime.preprocess import prepare  # noqa: E402
from tests.edge_runtime.tiny_backbone import preprocessing  # noqa: E402


def save(path: Path, values: Any, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(np.asarray(values, np.uint8)).convert(mode).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "scenes"
    for split, names in {"train": ("b", "a", "deep/c"), "val": ("d",)}.items():
        for name in names:
            save(folder / split / "images" / f"{name}.jpg", np.full((9, 12, 3), 90), "RGB")
            save(folder / split / "masks" / f"{name}.png", np.arange(108).reshape(9, 12) % 3)
    (folder / "classes.txt").write_text("sky\ntree\nroad\n\n")
    return folder


def test_images_and_masks_are_listed(root: Path) -> None:
    (root / "train/images/notes.txt").write_text("none")
    save(root / "train/masks/nobody.png", np.zeros((2, 2)))
    assert has_masks(root)
    found = scan_masks(root)
    assert found.classes == ("sky", "tree", "road")
    assert found.masked
    assert found.ignored == 2
    assert list(found.splits) == ["train", "val"]
    listed = [(file.path, file.mask) for file in found.splits["train"]]
    assert listed == [
        (f"train/images/{name}.jpg", f"train/masks/{name}.png") for name in ("a", "b", "deep/c")
    ]
    assert found.splits["val"][0].mask_bytes == (root / "val/masks/d.png").stat().st_size


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no mask": (lambda root: (root / "train/masks/a.png").unlink(), r"a\.jpg has no mask"),
    "no masks folder": (
        lambda root: (root / "val/masks").rename(root / "val/other"),
        r"val has no masks/",
    ),
    "no train": (lambda root: (root / "train").rename(root / "test2"), "no train/"),
    "no images": (
        lambda root: [path.unlink() for path in (root / "val/images").iterdir()],
        "holds no images",
    ),
    "one class": (lambda root: (root / "classes.txt").write_text("sky\n"), "names 1 classes"),
    "repeated class": (
        lambda root: (root / "classes.txt").write_text("sky\nroad\nsky"),
        "line 3 repeats 'sky'",
    ),
    "empty line": (lambda root: (root / "classes.txt").write_text("sky\n\nroad"), "line 2 is emp"),
    "not text": (lambda root: (root / "classes.txt").write_bytes(b"\xff\xfe\xff"), "not UTF-8"),
    "too many": (
        lambda root: (root / "classes.txt").write_text("\n".join(map(str, range(256)))),
        "names 256 classes",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_layout_is_refused(case: str, root: Path) -> None:
    change, message = WRONG[case]
    change(root)
    with pytest.raises(EdgeError, match=message):
        scan_masks(root)


def test_masks_without_classes_are_not_taken_for_classes(root: Path) -> None:
    (root / "classes.txt").unlink()
    assert not has_masks(root)
    for folder in (root, root / "train"):
        with pytest.raises(DataError, match=r"images/ and masks/ in place of classes; for seg"):
            scan(folder)


@pytest.mark.parametrize("size", [6, 8, 20], ids=lambda size: f"crop {size}")
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("shape", [(13, 30), (30, 13), (9, 9), (40, 40)])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_mask_is_cropped_as_its_image(
    mode: str, shape: tuple[int, int], crop_mode: str, size: int, tmp_path: Path
) -> None:
    """An image whose pixels are the mask's indices, resized with nearest neighbours, tells."""
    how = replace(preprocessing(), interpolation="nearest", crop_mode=crop_mode, size=size)
    mask = (1 + np.random.default_rng(0).integers(0, 5, shape)).astype(np.uint8)
    save(tmp_path / "a.png", np.repeat(mask[:, :, None], 3, 2), "RGB")
    made = image.fromarray(mask)
    if mode == "P":
        made.putpalette([7] * 768)
    made.save(tmp_path / "m.png")
    found = load_mask(tmp_path / "m.png", tmp_path / "a.png", how, 6)
    with image.open(tmp_path / "a.png") as opened:
        seen = prepare(opened, how)[:, :, 0]
    np.testing.assert_array_equal(found, np.where(seen == 0, IGNORED, seen))
    assert (found == IGNORED).any() == (size == 20)


def test_wrong_masks_are_told_from_unreadable_ones(root: Path) -> None:
    how, picture = preprocessing(), root / "train/images/a.jpg"
    path = root / "train/masks/a.png"

    def refused(kind: type[EdgeError], message: str) -> None:
        with pytest.raises(kind, match=message):
            load_mask(path, picture, how, 3)

    save(path, np.zeros((9, 11)))
    refused(MismatchError, r"a\.png is 11 x 9 pixels and its image a\.jpg 12 x 9")
    save(path, np.where(np.arange(108).reshape(9, 12) == 50, 3, IGNORED))
    refused(MismatchError, "holds the index 3, and classes.txt names 3 classes, 0 to 2")
    for mode in ("RGB", "1", "LA", "I;16"):
        image.new(mode, (12, 9)).save(path)
        refused(FormatError, "not 8-bit grey or with a palette")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused(DataError, "its mask cannot be read")
    save(path, np.full((9, 12), IGNORED))
    assert (load_mask(path, picture, how, 3) == IGNORED).all()
