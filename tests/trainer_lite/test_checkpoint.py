"""Checkpoint files and their folder: what is saved is what is read, or is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, FormatError, MismatchError
from trainer_lite.checkpoint import NAMES, Checkpoints, Every
from trainer_lite.generation import load
from trainer_lite.progress import Progress
from trainer_lite.reports import EpochReport

FACTS = {"lr": 0.003, "features": "ab" * 32, "clip_norm": None}
PLAN = {"tile": 3, "lanes": 2, "layout": 17}


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", int)


def arrays(seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed).standard_normal
    names = ("parameters", "first_moment", "second_moment", "best")
    return {name: draw(50).astype(np.float32) for name in names}


def progress(step: int = 12) -> Progress:
    history = [EpochReport(1, 0.1 + 0.2, 1 / 3, None, 7.5), EpochReport(2, 0.25, 1.0, 0.5, 8.0)]
    return Progress(
        step, step - 1, 1, 1, 0.7, 3, 8, epoch_seconds=0.5, seconds=2.5, best=0.5, history=history
    )


def saved(folder: Path, *steps: int) -> Checkpoints:
    """A folder that a run has saved to after those steps; its claim is given up."""
    made = Checkpoints(folder, resume=True)
    made.open(FACTS)
    for step in steps:
        made.save(arrays(step), progress(step), PLAN)
    made.close()
    return made


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    saved(tmp_path / "new" / "run", 12)
    again = Checkpoints(tmp_path / "new" / "run", resume=True)
    found = again.open(FACTS)
    assert found is not None
    assert found.progress == progress(12)
    assert (found.facts, found.plan) == (FACTS, PLAN)
    into = {name: np.zeros_like(array) for name, array in arrays().items()}
    found.read(into)
    for name, array in arrays(12).items():
        np.testing.assert_array_equal(into[name], array)
    with pytest.raises(FormatError, match="its tensors are not those of this run"):
        found.read({"parameters": np.zeros(50, np.float32)})
    again.close()


def test_two_generations_are_kept_and_the_one_with_more_steps_counts(tmp_path: Path) -> None:
    saved(tmp_path, 3, 6, 9)
    assert sorted(path.name for path in tmp_path.iterdir()) == list(NAMES)
    assert {load(tmp_path / name).progress.step for name in NAMES} == {6, 9}
    found = saved(tmp_path, 12)  # resumes at 9, and writes in place of 6
    assert found.written == 1
    assert {load(tmp_path / name).progress.step for name in NAMES} == {9, 12}


@pytest.mark.parametrize("damage", ["cut", "flip", "zero", "empty", "gone"])
def test_every_kind_of_damage_falls_back_to_the_older(tmp_path: Path, damage: str) -> None:
    saved(tmp_path, 3, 6)
    newest = max((tmp_path / name for name in NAMES), key=lambda p: load(p).progress.step)
    content = newest.read_bytes()
    rng = random.Random(damage)
    for _ in range(30):
        at = rng.randrange(len(content))
        other = {
            "cut": content[:at],
            "flip": content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :],
            "zero": content[:at] + bytes(len(content) - at),
            "empty": b"",
            "gone": b"",
        }[damage]
        newest.write_bytes(other)
        if damage == "gone":
            newest.unlink()
        warnings: list[str] = []
        again = Checkpoints(tmp_path, resume=True, warn=warnings.append)
        found = again.open(FACTS)
        again.close()
        assert found is not None
        if other == content:  # the padding of its header may be all that was cleared
            continue
        assert found.progress.step == 3
        assert len(warnings) == (damage != "gone")


def test_damage_in_all_generations_is_an_error_that_touches_nothing(tmp_path: Path) -> None:
    saved(tmp_path, 3, 6)
    for name in NAMES:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(FormatError, match="no checkpoint in .* can be read .*--force without"):
        Checkpoints(tmp_path, resume=True).open(FACTS)
    assert all((tmp_path / name).exists() for name in NAMES)


def test_what_is_there_is_neither_replaced_nor_resumed_without_a_word(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    with pytest.raises(ConfigError, match="--resume goes on from it, --force starts afresh"):
        Checkpoints(tmp_path).open(FACTS)
    forced = Checkpoints(tmp_path, force=True)
    assert forced.open(FACTS) is None
    assert list(tmp_path.iterdir()) == []
    forced.close()


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    other = {"lr": 0.01, "features": "ab" * 31 + "cd", "clip_norm": 1.0}
    with pytest.raises(MismatchError) as raised:
        Checkpoints(tmp_path, resume=True).open(other)
    assert "lr was 0.003, is 0.01" in str(raised.value)
    assert "clip_norm was not given, is 1.0" in str(raised.value)
    assert "features was abababababab" in str(raised.value)


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path)
    first.open(FACTS)
    with pytest.raises(ConfigError, match="another run saves to"):
        Checkpoints(tmp_path, resume=True).open(FACTS)
    first.close()
    second = Checkpoints(tmp_path, resume=True)
    second.open(FACTS)
    second.close()


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / f".{NAMES[0]}.12345.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    saved(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_when_a_checkpoint_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    made = Checkpoints(tmp_path, Every(steps=10))
    assert [step for step in (1, 9, 10, 11) if made.due(step)] == [10, 11]
    made = Checkpoints(tmp_path, Every(seconds=5))
    clock.now += 4.9
    assert not made.due(1)
    clock.now += 0.2
    assert made.due(1)


def test_by_default_saving_takes_no_more_than_a_fiftieth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    made = Checkpoints(tmp_path)
    made.open(FACTS)

    def slow(*arguments: Any) -> None:
        clock.now += 9.0

    monkeypatch.setattr("edge_runtime.tensorfile.write", slow)
    for step in range(1, 3600):
        clock.now += 1.0
        if made.due(step):
            made.save(arrays(), progress(step), PLAN)
    made.close()
    assert made.written >= 5
    assert made.seconds / clock.now < 0.02
