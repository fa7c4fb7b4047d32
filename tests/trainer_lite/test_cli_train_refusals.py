"""What `edgetune train` refuses: in one line, before the work, with nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.adaptor import Adaptor
from tests.command_line import Outcome, edgetune
from tests.feature_folders import Written, alter_manifest, alter_shard, write_features
from trainer_lite.step import TrainingStep
from trainer_lite.trainer import Trainer


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return write_features(tmp_path / "features")


def train(folder: Path, out: Path, *options: object) -> Outcome:
    fast = ("--epochs", 2, "--batch-size", 8)
    return edgetune("train", folder, "--out", out, *fast, *options)


def files(folder: Path) -> list[str]:
    """Everything below a folder but the features."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(name for name in found if not name.startswith("features"))


def test_existing_files_are_refused_before_training(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", lambda *arguments: pytest.fail("it trained"))
        for name in ("a.safetensors", "a.best.safetensors"):
            (tmp_path / name).write_text("old")
            line = train(written.path, tmp_path / "a.safetensors").error
            assert f"{name} exists already; choose another name or pass --force" in line
            assert (tmp_path / name).read_text() == "old"
            (tmp_path / name).unlink()
        for out, message in (
            (tmp_path, "is a folder; give the name of the file to write"),
            (written.path / "manifest.json" / "a", "is no folder; choose another name"),
        ):
            assert message in train(written.path, out, "--force").error
    (tmp_path / "a.safetensors").write_text("old")
    assert train(written.path, tmp_path / "a.safetensors", "--force").exit_code == 0
    assert Adaptor.load(tmp_path / "a.safetensors").classes


OPTIONS: dict[str, tuple[tuple[object, ...], str]] = {
    "batch": (("--batch-size", 25), "larger than the 24 images of the set; use --batch-size 24"),
    "rank": (("--rank", 9), "rank 9 is above the feature width 8; use --rank 8 or less"),
    "heads": (("--heads", 3), "rank 8 does not divide into 3 heads"),
    "no blocks": (("--blocks", 0), "must each be at least 1"),
    "epochs": (("--epochs", 0), "epochs and batch size must each be at least 1"),
    "lr NaN": (("--lr", "nan"), "the learning rate must be finite and above 0, not nan"),
    "lr 0": (("--lr", 0), "the learning rate must be finite and above 0"),
    "decay": (("--weight-decay", -1), "weight decay must be finite and not negative"),
    "warmup": (("--warmup", 1.5), "warmup is a fraction of the run"),
    "smoothing": (("--label-smoothing", 1), "label_smoothing must be at least 0 and below 1"),
    "drop-path": (("--drop-path", "nan"), "drop_path must be at least 0 and below 1"),
    "seed": (("--seed", 2**63), "the seed must fit in 64 bits"),
    "clip": (("--clip-norm", 0), "clip_norm must be finite and above 0, not 0"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_cannot_work_are_refused(case: str, written: Written, tmp_path: Path) -> None:
    options, message = OPTIONS[case]
    assert message in train(written.path, tmp_path / "new" / "a", *options).error
    assert files(tmp_path) == []


def poison(tensors: dict[str, Any], *names: str) -> None:
    for name in names:
        tensors[name].fill(np.nan)


def truncate(folder: Path) -> None:
    path = folder / "test-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder: Path) -> None:
    path = folder / "test-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "it is truncated or altered; run extract again"),
    "altered": (flip, "test-00001.safetensors: its CRC-32 is not the manifest's"),
    "NaN": (
        lambda f: alter_shard(f, "test", lambda t: poison(t, "features", "norms")),
        "holds NaN or infinite features",
    ),
    "NaN, norms hide it": (
        lambda f: alter_shard(f, "train", lambda t: poison(t, "features")),
        "train-00000.safetensors holds NaN or infinite features",
    ),
    "no such label": (
        lambda f: alter_shard(f, "val", lambda t: t["labels"].fill(7)),
        "a label of split val names no class",
    ),
    "manifest": (lambda f: (f / "manifest.json").write_text("{"), "damaged"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "is not a feature folder"),
    "version": (lambda f: alter_manifest(f, lambda m: m.update(version=2)), "version 2 of"),
    "no prefix tokens": (
        lambda f: alter_manifest(f, lambda m: m.update(prefix_tokens=0)),
        "pool cls needs a class token, and this backbone has none; use --pool mean",
    ),
    "rms": (
        lambda f: alter_manifest(f, lambda m: m["splits"]["train"].update(rms=1e-300)),
        "input_rms must be from 1e-12",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_features_that_cannot_be_used_are_refused_and_nothing_is_written(
    case: str, written: Written, tmp_path: Path
) -> None:
    damage, message = DAMAGE[case]
    damage(written.path)
    assert message in train(written.path, tmp_path / "new" / "a", "--pool", "cls").error
    assert files(tmp_path) == []


def test_damage_in_the_test_split_is_found_before_training(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(written.path)
    monkeypatch.setattr(TrainingStep, "run", lambda *arguments: pytest.fail("it trained"))
    assert "its CRC-32" in train(written.path, tmp_path / "a").error


@pytest.mark.parametrize(
    ("option", "step", "rate"),
    [(("--lr", 1e30), 2, "1e+30"), (("--weight-decay", 1e9), 3, "0.02")],
)
def test_a_run_that_diverges_is_refused_and_nothing_is_written(
    option: tuple[object, ...], step: int, rate: str, written: Written, tmp_path: Path
) -> None:
    outcome = train(written.path, tmp_path / "new" / "a", *option)
    assert (outcome.exit_code, outcome.stdout) == (1, "")
    *warnings, line = outcome.stderr.splitlines()
    assert f"stopped being finite at step {step}; try a lower --lr (now {rate})" in line
    assert all(warning.startswith("warning: step ") for warning in warnings)
    assert files(tmp_path) == []


def test_a_single_class_cannot_be_learnt(tmp_path: Path) -> None:
    written = write_features(tmp_path / "features", classes=1)
    assert "at least two classes are needed" in train(written.path, tmp_path / "a").error
    other = write_features(tmp_path / "features-2", rows={"train": 1}, classes=2)
    line = train(other.path, tmp_path / "a", "--batch-size", 1).error
    assert "are of one class (class-0); at least two classes are needed" in line


def test_val_must_exist_to_be_fitted_on(tmp_path: Path) -> None:
    written = write_features(tmp_path / "features", rows={"train": 12})
    line = train(written.path, tmp_path / "a", "--fit-on", "train+val").error
    assert "has no val split to fit on; use --fit-on train" in line
    assert files(tmp_path) == []


def test_an_interrupted_training_writes_nothing(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer_lite.reporter.Reporter.on_step", stop)
    outcome = train(written.path, tmp_path / "a")
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (130, "", "\nstopped\n")
    assert files(tmp_path) == []


def test_a_saved_run_is_named_before_the_files_it_left(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, saved = tmp_path / "a.safetensors", ("--checkpoint", tmp_path / "run")

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trainer_lite.reporter.Reporter.on_epoch", stop)
        assert train(written.path, out, *saved, "--every", 1).exit_code == 130
    before = files(tmp_path)
    assert "a.best.safetensors" in before
    refused = train(written.path, out, *saved)
    assert refused.error.endswith("--resume goes on from it, --force starts afresh")
    refused = train(written.path, out, *saved, "--resume", "--epochs", 9)
    assert "is of another run: epochs was 2, is 9" in refused.error
    assert files(tmp_path) == before
    assert train(written.path, out, *saved, "--resume").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("train",),
        ("train", "features"),
        ("train", "features", "--out", "a", "--pool", "max"),
        ("train", "features", "--out", "a", "--kind", "mlp"),
        ("train", "features", "--out", "a", "--epochs", "many"),
        ("train", "features", "--out", "a", "--fit-on", "test"),
        ("train", "features", "--out", "a", "--threads", "0"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    outcome = edgetune(*arguments)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("Usage: ")
