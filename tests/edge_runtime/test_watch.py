"""Images as they appear: whole, once each, again when replaced."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.errors import DataError
from edge_runtime.watch import appearing

pytest.importorskip("PIL")


def told(folder: Path, *steps: Callable[[], object]) -> list[list[str]]:
    """Names that appear after each look; before each but the first, one step is taken."""
    names: list[list[str]] = [[]]
    left: Iterator[Callable[[], object]] = iter(steps)

    def wait(seconds: float) -> None:
        assert seconds == 0.25
        step = next(left, None)
        if step is None:
            raise KeyboardInterrupt
        step()
        names.append([])

    with contextlib.suppress(KeyboardInterrupt):
        for path in appearing(folder, 0.25, wait):
            assert path.parent == folder
            names[-1].append(path.name)
    return names


def nothing() -> None:
    """A step in which the folder stays as it is."""


def test_a_file_is_told_once_it_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "b.png"
    (tmp_path / "a.jpg").write_bytes(b"here already")
    seen = told(
        tmp_path,
        lambda: file.write_bytes(b"hal"),
        lambda: file.write_bytes(b"half and whole"),
        nothing,
        nothing,
    )
    assert seen == [[], ["a.jpg"], [], ["b.png"], []]


def test_a_replaced_file_is_told_again_and_a_gone_one_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    seen = told(
        tmp_path,
        nothing,
        lambda: file.write_bytes(b"another"),
        nothing,
        file.unlink,
        lambda: file.write_bytes(b"another"),
        nothing,
    )
    assert seen == [[], ["a.png"], [], ["a.png"], [], [], ["a.png"]]


def test_oldest_first_and_nothing_but_images(tmp_path: Path) -> None:
    for age, name in enumerate(["new.png", "OLD.JPG", "older.webp", "note.txt", ".hidden.png"]):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / "folder.png").mkdir()
    assert told(tmp_path, nothing)[1] == ["older.webp", "OLD.JPG", "new.png"]


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_what_is_no_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not a folder; give the folder to watch"):
        next(appearing(tmp_path / name, 1.0))
