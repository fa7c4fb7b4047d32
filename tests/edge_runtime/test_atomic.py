"""Outputs appear whole or not at all, and nothing temporary stays behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime import atomic
from edge_runtime.errors import ConfigError, OutputExistsError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x"
    with atomic.write_file(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert names(path.parent) == ["x"]


def write_and_raise(path: Path, error: type[BaseException]) -> None:
    with atomic.write_file(path) as file:
        file.write(b"new, but cut")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_interrupted_file_leaves_the_old_one(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(error):
        write_and_raise(path, error)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


def test_a_failed_rename_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*paths: Path) -> None:
        raise OSError

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError), atomic.write_file(tmp_path / "x") as file:  # noqa: PT011
        file.write(b"new")
    assert names(tmp_path) == []


def test_a_file_never_replaces_a_folder_or_a_device(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("folder", "is a folder"), ("pipe", "is a device or a pipe")):
        with pytest.raises(OutputExistsError, match=what):
            write_and_raise(tmp_path / name, AssertionError)
        with pytest.raises(OutputExistsError, match=what):
            atomic.refuse_unwritable(tmp_path / name, force=True)
    assert names(tmp_path) == ["folder", "pipe"]
    assert (tmp_path / "pipe").is_fifo()


def test_what_exists_is_refused_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "broken link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path, tmp_path / "file", tmp_path / "broken link"):
        with pytest.raises(OutputExistsError, match="exists already.*pass --force"):
            atomic.refuse_existing(path, force=False)
        atomic.refuse_existing(path, force=True)
    atomic.refuse_existing(tmp_path / "new", force=False)


def test_a_file_that_could_not_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    atomic.refuse_unwritable(tmp_path / "new" / "deep" / "x", force=False)
    atomic.refuse_unwritable(tmp_path / "file", force=True)
    assert names(tmp_path) == ["file"]
    with pytest.raises(OutputExistsError, match="exists already"):
        atomic.refuse_unwritable(tmp_path / "file", force=False)
    for force in (False, True):
        with pytest.raises(OutputExistsError, match="is a folder; give the name of the file"):
            atomic.refuse_unwritable(tmp_path, force=force)
        with pytest.raises(ConfigError, match="is no folder; choose another name"):
            atomic.refuse_unwritable(tmp_path / "file" / "x", force=force)


def test_a_read_only_folder_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(ConfigError, match="is read-only; choose another folder"):
        atomic.refuse_unwritable(tmp_path / "x", force=False)


def test_a_published_folder_replaces_what_stood_there(tmp_path: Path) -> None:
    final = tmp_path / "out"
    for content in ("first", "second"):
        built = atomic.partial_path(final)
        built.mkdir()
        (built / content).touch()
        atomic.publish_folder(built, final)
        assert names(final) == [content]
        assert names(tmp_path) == ["out"]


def test_a_published_folder_replaces_a_link_but_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "target")
    (tmp_path / "built").mkdir()
    atomic.publish_folder(tmp_path / "built", tmp_path / "out")
    assert names(tmp_path) == ["out", "target"]
    assert not (tmp_path / "out").is_symlink()


def test_a_failed_publication_leaves_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(FileNotFoundError):
        atomic.publish_folder(tmp_path / "never built", tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["old"]


def test_removing_takes_files_links_and_folders(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "x").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    for name in ("link", "file", "folder", "nothing"):
        atomic.remove(tmp_path / name)
    assert names(tmp_path) == ["kept"]
    assert names(tmp_path / "kept") == ["x"]
