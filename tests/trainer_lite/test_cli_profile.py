"""`edgetune calibrate`, `profile`, and `plan` with a calibration: files, messages, exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import edgetune
from tests.feature_folders import write_features


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with features, an adaptor trained on them, and a calibration."""
    root = tmp_path_factory.mktemp("profile")
    write_features(root / "features")
    adaptor = root / "adaptor.safetensors"
    trained = edgetune(
        "train", root / "features", "--out", adaptor, "--epochs", 1, "--batch-size", 8, "--rank", 4
    )
    assert trained.exit_code == 0, trained.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer_lite.calibration.STEPS", 1)
        patch.setattr("trainer_lite.rates.STORAGE_BYTES", 1 << 20)
        assert edgetune("calibrate", "--out", root / "board.json").exit_code == 0
    return root


def test_calibrate_says_what_it_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_lite.calibration.STEPS", 1)
    found = edgetune("calibrate", "--out", folder / "other.json", "--json")
    content = json.loads(found.stdout)
    assert content["speedups"]["1"] == 1.0
    assert content["rates"]["storage_bytes"] > 0
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == []
    refused = edgetune("calibrate", "--out", folder / "other.json")
    assert "--force" in refused.error


def test_calibrate_refuses_storage_that_is_no_folder(folder: Path) -> None:
    found = edgetune("calibrate", "--out", folder / "new.json", "--storage", folder / "none")
    assert "is no folder" in found.error
    assert not (folder / "new.json").exists()


@pytest.mark.parametrize("what", ["features", "adaptor.safetensors"])
def test_profile_of_features_and_of_an_adaptor(folder: Path, tmp_path: Path, what: str) -> None:
    html = tmp_path / "profile.html"
    options = ("--batch-size", 8, "--steps", 2, "--board", folder / "board.json")
    found = edgetune("profile", folder / what, *options, "--html", html, "--json")
    assert found.exit_code == 0, found.stderr
    content = json.loads(found.stdout)
    assert content["batch_size"] == 8
    assert content["config"]["rank"] == (4 if what != "features" else 8)
    assert content["rates"] == json.loads((folder / "board.json").read_text())["rates"]
    assert "<svg" in html.read_text()
    table = edgetune("profile", folder / what, *options)
    assert "inference of one image" in table.stdout
    assert "--force" in edgetune("profile", folder / what, *options, "--html", html).error


def test_profile_measures_limits_where_there_is_no_calibration(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = edgetune("profile", folder / "features", "--batch-size", 4, "--steps", 1, "--json")
    assert json.loads(found.stdout)["rates"]["cache_bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_profile_refuses(folder: Path, tmp_path: Path) -> None:
    adaptor = folder / "adaptor.safetensors"
    assert edgetune("profile", adaptor, "--rank", 4).exit_code == 2
    assert "no such file" in edgetune("profile", tmp_path / "none").error
    (tmp_path / "junk").write_bytes(b"no adaptor at all")
    assert "junk" in edgetune("profile", tmp_path / "junk").error
    assert "batch size 500" in edgetune("profile", folder / "features", "--batch-size", 500).error
    board = ("--board", tmp_path / "junk")
    assert "junk" in edgetune("profile", folder / "features", *board).error


def test_plan_predicts_time_with_a_calibration(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = ("plan", folder / "features", "--batch-size", 8)
    assert "predicted time" not in edgetune(*plan).stdout
    monkeypatch.chdir(folder)  # board.json is there
    assert "predicted time of an epoch" in edgetune(*plan).stdout
    found = json.loads(edgetune(*plan, "--json", "--board", folder / "board.json").stdout)
    parts = found["predicted_training_seconds"], found["predicted_validation_seconds"]
    assert found["predicted_epoch_seconds"] == sum(parts) > 0
    assert found["board"]["cores"] >= 1


def test_plan_goes_on_without_a_board_of_another_version_that_only_lies_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = json.loads((folder / "board.json").read_text())
    del board["kinds"]["forward exp_scores -> block.scores"]
    (tmp_path / "board.json").write_text(json.dumps(board))
    monkeypatch.chdir(tmp_path)
    plan = ("plan", folder / "features", "--batch-size", 8)
    found = edgetune(*plan)
    assert found.exit_code == 0
    assert "no time is predicted" in found.stderr and "predicted time" not in found.stdout
    assert "calibrate again" in edgetune(*plan, "--board", tmp_path / "board.json").error
