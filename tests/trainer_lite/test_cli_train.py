"""`edgetune train` as it is typed: what it learns, writes and prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.adaptor import Adaptor
from edge_runtime.features import FeatureFolder
from tests.command_line import Outcome, edgetune
from tests.feature_folders import Written, write_features
from trainer_lite.config import TrainConfig
from trainer_lite.trainer import Trainer

FAST = ("--epochs", 2, "--batch-size", 8)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return write_features(tmp_path / "features")


def train(folder: Path, out: Path, *options: object) -> Outcome:
    return edgetune("train", folder, "--out", out, *FAST, *options)


def summary(folder: Path, out: Path, *options: object) -> Any:
    """The JSON object of a training run that must go well."""
    outcome = train(folder, out, *options, "--json")
    assert outcome.exit_code == 0, outcome
    return json.loads(outcome.stdout)


def files(folder: Path) -> list[str]:
    """Everything below a folder but the features."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(name for name in found if not name.startswith("features"))


@pytest.mark.parametrize(
    "options",
    [
        ("--rank", 4, "--blocks", 2),
        ("--kind", "linear"),
        ("--pool", "cls", "--heads", 2),
        ("--drop-path", 0.2, "--label-smoothing", 0.1),
    ],
)
@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_separable_classes_are_learnt(
    codec: str, options: tuple[object, ...], tmp_path: Path
) -> None:
    rows = {"train": 60, "val": 15, "test": 45}
    written = write_features(tmp_path / "features", codec=codec, rows=rows, separation=1.5)
    content = summary(written.path, tmp_path / "a", *options, "--epochs", 15)
    assert content["test_accuracy"] > 0.9
    assert content["val_accuracy"] > 0.9
    assert content["train_loss"] < content["history"][0]["train_loss"] * 0.8


def test_json_tells_all_there_is_to_know(written: Written, tmp_path: Path) -> None:
    content = summary(written.path, tmp_path / "a.safetensors")
    assert content["adaptor"] == str(tmp_path / "a.safetensors")
    assert (content["epochs"], content["steps"]) == (2, 6)
    assert content["seconds"] > 0 and content["images_per_second"] > 0
    assert content["peak_rss_bytes"] > 1 << 20
    assert 0 <= content["train_accuracy"] <= 1
    assert content["best_val_accuracy"] >= content["val_accuracy"]
    assert content["best_epoch"] in (1, 2)
    adaptor = Adaptor.load(tmp_path / "a.safetensors")
    assert content["parameters"] == adaptor.config.parameter_count()
    history = content["history"]
    assert [report["epoch"] for report in history] == [1, 2]
    assert history[-1]["train_loss"] == content["train_loss"]
    outcome = edgetune("evaluate", tmp_path / "a.safetensors", written.path, "--json")
    assert json.loads(outcome.stdout)["accuracy"] == content["test_accuracy"]


def test_last_and_best_epoch_are_written(written: Written, tmp_path: Path) -> None:
    out = tmp_path / "new" / "a.safetensors"
    content = summary(written.path, out, "--epochs", 4)
    assert files(tmp_path) == [
        "new",
        "new/a.best.safetensors",
        "new/a.history.json",
        "new/a.safetensors",
    ]
    best = Adaptor.load(out.with_name("a.best.safetensors"))
    found = best.evaluate(FeatureFolder.open(written.path).split("val")).accuracy
    assert found == content["best_val_accuracy"]
    last = Adaptor.load(out)
    assert (
        last.evaluate(FeatureFolder.open(written.path).split("val")).accuracy
        == (content["val_accuracy"])
    )
    folder = FeatureFolder.open(written.path)
    for adaptor in (best, last):
        assert adaptor.classes == folder.classes
        assert adaptor.backbone == folder.backbone
        assert adaptor.features == {"identity": folder.identity, "codec": "float16"}
        assert adaptor.config.input_rms == folder.split("train").rms
        assert (adaptor.training["epochs"], adaptor.training["lr"]) == (4, 0.02)


def test_people_read_of_progress_and_of_the_result(written: Written, tmp_path: Path) -> None:
    outcome = train(written.path, tmp_path / "a.safetensors")
    assert outcome.exit_code == 0
    assert [line.split(":")[0] for line in outcome.stderr.splitlines()] == [
        "epoch 1/2",
        "epoch 2/2",
    ]
    lines = outcome.stdout.splitlines()
    assert lines[0].endswith("trainable parameters, 6 steps")
    assert [line.split(":")[0] for line in lines[1:4]] == [
        "test accuracy",
        "val accuracy",
        "best val accuracy",
    ]
    assert lines[4].endswith("a.best.safetensors") and "peak RSS" in lines[5]


@pytest.mark.parametrize(
    ("rows", "missing"),
    [
        ({"train": 24}, ["test_accuracy", "val_accuracy", "best_val_accuracy", "best_epoch"]),
        ({"train": 24, "val": 6}, ["test_accuracy"]),
        ({"train": 24, "test": 6}, ["val_accuracy", "best_val_accuracy", "best_epoch"]),
    ],
)
def test_splits_that_are_not_there_are_not_reported(
    rows: dict[str, int], missing: list[str], tmp_path: Path
) -> None:
    written = write_features(tmp_path / "features", rows=rows)
    content = summary(written.path, tmp_path / "a")
    assert content.pop("memory_budget_bytes") is None
    assert [name for name, value in content.items() if value is None] == missing
    assert files(tmp_path) == ["a", *(["a.best"] if "val" in rows else []), "a.history.json"]


def test_fitting_on_val_too_leaves_nothing_to_validate_on(written: Written, tmp_path: Path) -> None:
    content = summary(written.path, tmp_path / "a", "--fit-on", "train+val")
    assert content["val_accuracy"] is None and content["test_accuracy"] is not None
    assert content["steps"] == 2 * 4  # 32 images in batches of 8
    assert files(tmp_path) == ["a", "a.history.json"]


def test_the_same_seed_gives_the_same_bytes(written: Written, tmp_path: Path) -> None:
    options = ("--drop-path", 0.3, "--label-smoothing", 0.1)
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        summary(written.path, tmp_path / name, *options, "--seed", seed)
    one, two, other = ((tmp_path / name).read_bytes() for name in ("one", "two", "other"))
    assert one == two
    assert one != other
    assert (tmp_path / "one.best").read_bytes() == (tmp_path / "two.best").read_bytes()


@pytest.mark.parametrize("drop_path", [0.0, 0.3])
def test_the_tile_does_not_change_the_losses(drop_path: float, written: Written) -> None:
    config = TrainConfig(epochs=3, batch_size=10, drop_path=drop_path)
    losses = []
    for tile in (1, 4, 10, 80):
        result = Trainer(config, tile=tile).fit(FeatureFolder.open(written.path))
        losses.append([report.train_loss for report in result.history])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-5)
