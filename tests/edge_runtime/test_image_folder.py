"""Which images are found, in which order, and which folders are refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edge_runtime.errors import DataError
from edge_runtime.image_folder import scan

pytest.importorskip("PIL")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * len(name))
    return root


def test_one_folder_a_class_is_all_train(tmp_path: Path) -> None:
    touch(tmp_path, "dog/b.png", "dog/a.JPG", "cat/x.webp", "cat/deep/er/y.bmp", "cat-2/z.png")
    found = scan(tmp_path)
    assert found.classes == ("cat", "cat-2", "dog")
    assert list(found.splits) == ["train"]
    assert [(f.path, f.label) for f in found.splits["train"]] == [
        ("cat-2/z.png", 1),
        ("cat/deep/er/y.bmp", 0),
        ("cat/x.webp", 0),
        ("dog/a.JPG", 2),
        ("dog/b.png", 2),
    ]
    assert found.splits["train"][0].bytes == len("cat-2/z.png")
    assert found.ignored == 0


def test_splits_keep_their_order_and_may_lack_classes(tmp_path: Path) -> None:
    touch(tmp_path, "test/b/3.png", "train/a/1.png", "train/b/2.png", "val/a/4.png")
    found = scan(tmp_path)
    assert list(found.splits) == ["train", "val", "test"]
    assert [f.path for f in found.splits["test"]] == ["test/b/3.png"]
    assert [f.label for f in found.splits["test"]] == [1]


def test_what_is_no_image_is_ignored(tmp_path: Path) -> None:
    touch(tmp_path, "index.csv", "SOURCE.json", "Thumbs.db", ".DS_Store", ".cache/x/1.png")
    touch(tmp_path, "a/1.png", "a/notes.txt", "a/.hidden.png", "a/sub/list.csv", "b/2.png", "b/3")
    touch(tmp_path, "a/paper.pdf", "b/table.h5", "b/page.eps", "b/clip.mpg")
    found = scan(tmp_path)
    assert [f.path for f in found.splits["train"]] == ["a/1.png", "b/2.png"]
    assert found.ignored == 7


def test_classes_may_be_called_like_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "car/2.png", "ship/3.png")
    assert scan(tmp_path).classes == ("car", "ship", "train")


def test_links_are_followed_and_dangling_ones_kept(tmp_path: Path) -> None:
    touch(tmp_path / "store", "x.png", "more/y.png")
    root = touch(tmp_path / "root", "a/1.png", "b/2.png")
    (root / "a" / "link.png").symlink_to(tmp_path / "store" / "x.png")
    (root / "b" / "more").symlink_to(tmp_path / "store" / "more")
    (root / "c").symlink_to(tmp_path / "store")
    (root / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = scan(root)
    assert [f.path for f in found.splits["train"]] == [
        "a/1.png",
        "a/link.png",
        "b/2.png",
        "b/gone.png",
        "b/more/y.png",
        "c/more/y.png",
        "c/x.png",
    ]
    (root / "a" / "up").symlink_to(root)
    with pytest.raises(DataError, match="link back to a folder that holds it; remove the link"):
        scan(root)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no images; expected one folder for each class"),
        (["readme.txt"], "holds no images"),
        (["a/1.png"], "single class .'a'.; at least two"),
        (["1.png"], "1.png lies in no class folder; move it into one"),
        (["1.png", "a/1.png", "b/1.png"], "1.png lies in no class folder"),
        (["a/1.png", "b/notes.txt"], "b holds no images; add some or remove the folder"),
        (["train/1.png"], "1.png lies in no class folder"),
        (["train/a/1.png", "train/b/1.png", "test/c/1.png"], "train/ has no class 'c'; add it"),
        (["train/a/1.png", "train/b/1.png", "valid/a/1.png"], "has valid/ beside train/; name"),
        (["test/a/1.png", "val/b/1.png"], "has val/ but no train/"),
        (["train/a/1.png", "train/b/1.png", "val/x.txt"], "val holds no images"),
    ],
)
def test_folders_of_another_form_are_refused(
    names: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        scan(touch(tmp_path, *names))
    assert "\n" not in str(caught.value)


def test_a_missing_root_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist; expected one folder"):
        scan(tmp_path / "nowhere")
    with pytest.raises(DataError, match="file is not a folder"):
        scan(touch(tmp_path, "file") / "file")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse to make such names")
def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xff.png")).write_bytes(b"")
    with pytest.raises(DataError, match=r"a/\\xff.png: the name is not UTF-8; rename it"):
        scan(tmp_path)
