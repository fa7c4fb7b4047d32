"""What a run leaves beside its adaptor: the same as it reported, and never another's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.errors import FormatError
from tests.command_line import edgetune
from tests.feature_folders import write_features
from trainer_lite.history import history_of, out_of, read_history

FAST = ("--epochs", 3, "--batch-size", 8, "--rank", 4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with features and a run's files, and what the run printed."""
    root = tmp_path_factory.mktemp("history")
    write_features(root / "features")
    with pytest.MonkeyPatch.context() as patch:  # the peak of what ran in this process before
        patch.setattr("trainer_lite.budget.peak_rss_bytes", lambda: 0)
        out = root / "a.safetensors"
        found = edgetune("train", root / "features", "--out", out, *FAST, "--json")
    assert found.exit_code == 0, found
    return root, json.loads(found.stdout)


@pytest.mark.parametrize("name", ["a.safetensors", "a.best.safetensors"])
def test_it_tells_what_the_run_reported(trained: tuple[Path, Any], name: str) -> None:
    root, summary = trained
    found = history_of(root / name)
    assert found["epochs"] == summary["history"]
    for key in ("steps", "skipped_steps", "seconds", "best_epoch", "test_accuracy"):
        assert found[key] == summary[key], key
    memory = found["memory"]
    assert memory["peak_rss_bytes"] == summary["peak_rss_bytes"]
    parts = ("baseline", "blas", "object", "parameter", "weights", "arena")
    whole = sum(memory[f"{part}_bytes"] for part in parts)
    assert whole == memory["predicted_peak_rss_bytes"] == summary["predicted_peak_rss_bytes"]
    assert str(root) not in (root / "a.history.json").read_text()


def test_it_is_found_for_its_own_adaptors_alone(trained: tuple[Path, Any], tmp_path: Path) -> None:
    root, _ = trained
    moved = tmp_path / "elsewhere.safetensors"
    shutil.copy(root / "a.best.safetensors", moved)
    with pytest.raises(FormatError, match=r"elsewhere\.history\.json is not there"):
        history_of(moved)
    shutil.copy(root / "a.history.json", tmp_path / "elsewhere.history.json")
    assert history_of(moved)["epochs"]
    moved.write_bytes(moved.read_bytes() + b" ")
    with pytest.raises(FormatError, match=r"is of another adaptor than elsewhere\.safetensors"):
        history_of(moved)


@pytest.mark.parametrize(
    ("name", "out"),
    [
        ("a.st", "a.st"),
        ("a.best.st", "a.st"),
        ("a.stopped.st", "a.st"),
        ("a.b.best.st", "a.b.st"),
        ("a.best", "a"),
        ("best.st", "best.st"),
        (".best.st", ".best.st"),
    ],
)
def test_names_lead_back_to_out(name: str, out: str) -> None:
    assert out_of(Path("x") / name) == Path("x") / out


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.pop("epochs"),
        lambda h: h["epochs"].clear(),
        lambda h: h["epochs"].pop(0),
        lambda h: h["epochs"][1].update(train_loss="<b>"),
        lambda h: h["epochs"][1].update(val_accuracy=1.5),
        lambda h: h["epochs"].append(7),
        lambda h: h.update(best_epoch=4),
        lambda h: h.update(seconds=-1),
        lambda h: h.update(threads=None),
        lambda h: h["memory"].pop("arena_bytes"),
        lambda h: h["memory"].update(memory_budget_bytes="much"),
        lambda h: h.update(versions=[]),
        lambda h: h.update(adaptors=[]),
        lambda h: h.update(version=2),
        lambda h: h.update(format="edgetune.board"),
    ],
)
def test_a_damaged_one_is_refused(
    trained: tuple[Path, Any], tmp_path: Path, change: Callable[[Any], object]
) -> None:
    content = json.loads((trained[0] / "a.history.json").read_text())
    change(content)
    path = tmp_path / "a.history.json"
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match="a.history.json"):
        read_history(path)


def test_another_ones_history_is_not_overwritten_unasked(tmp_path: Path) -> None:
    features, out = write_features(tmp_path / "features").path, tmp_path / "b.safetensors"
    history = tmp_path / "b.history.json"
    history.write_text("mine")
    train = ("train", features, "--out", out, *FAST)
    assert "b.history.json exists already" in edgetune(*train).error
    assert not out.exists() and history.read_text() == "mine"
    assert edgetune(*train, "--force").exit_code == 0
    assert history_of(out)["steps"] == 9


def test_a_run_does_not_fail_for_want_of_its_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, out = write_features(tmp_path / "features").path, tmp_path / "c.safetensors"
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith(".history.json"):
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    found = edgetune("train", features, "--out", out, *FAST)
    assert found.exit_code == 0 and out.exists()
    assert "warning: no history was written" in found.stderr
    assert sorted(p.name for p in tmp_path.glob("*c.*")) == ["c.best.safetensors", "c.safetensors"]


def test_a_run_that_was_stopped_leaves_the_epochs_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, out = write_features(tmp_path / "features").path, tmp_path / "d.st"
    # once by the plan; an epoch is 3 steps: the third epoch's second passes the budget
    asked = iter([0] * 8)
    monkeypatch.setattr("trainer_lite.budget.peak_rss_bytes", lambda: next(asked, 1 << 40))
    found = edgetune("train", features, "--out", out, *FAST, "--memory-budget", "8GiB")
    assert found.exit_code == 1 and "what was learnt so far is in" in found.stderr
    assert not out.exists()
    for name in ("d.stopped.st", "d.best.st"):
        history = history_of(tmp_path / name)
        assert (len(history["epochs"]), history["steps"]) == (2, 8)
        assert history["memory"]["memory_budget_bytes"] == 8 << 30
