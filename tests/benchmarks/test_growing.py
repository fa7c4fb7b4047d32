"""benchmarks.growing from end to end on a small problem, and the folders it makes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.growing import held_out, main
from benchmarks.subset import write_subset
from edge_runtime.features import FeatureFolder
from tests.command_line import edgetune
from tests.feature_folders import decoded, write_features


def test_a_subset_holds_the_rows_of_its_classes_as_they_are(tmp_path: Path) -> None:
    written = write_features(tmp_path / "all", codec="int8", classes=4)
    whole = FeatureFolder.open(written.path)
    out = write_subset(whole, ["class-1", "class-3"], tmp_path / "some", {"class-3": 2})
    assert edgetune("inspect", out, "--verify").exit_code == 0
    split = FeatureFolder.open(out).split("train")
    labels = written.labels["train"]
    rows = np.sort([*np.flatnonzero(labels == 1), *np.flatnonzero(labels == 3)[:2]])
    assert split.paths == [written.paths["train"][row] for row in rows]
    assert split.labels.tolist() == [(labels[row] - 1) // 2 for row in rows]
    z, norms = np.empty((len(rows), 5, 8), np.float32), np.empty((len(rows), 5), np.float32)
    split.read(np.arange(len(rows)), z, norms, np.empty(split.scratch_bytes(len(rows)), np.uint8))
    np.testing.assert_array_equal(z, decoded(written.features["train"][rows], "int8"))


def test_classes_held_out_are_spread_over_the_list() -> None:
    assert held_out([str(index) for index in range(10)], 2) == ["2", "7"]
    assert held_out(["a", "b", "c"], 1) == ["b"]


@pytest.mark.slow  # twelve processes
def test_every_way_has_its_row(tmp_path: Path) -> None:
    rows = {"train": 40, "test": 20}
    written = write_features(tmp_path / "shapes", classes=5, rows=rows)
    options = ["--epochs", "2", "--few", "1", "--shots", "4", "--no-scratch", "--hold-out", "1"]
    work = ["--work", str(tmp_path / "work")]
    result = CliRunner().invoke(main, [str(written.path), *options, *work], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "work" / "results.json").read_text())
    assert [row["way"] for row in found] == [
        "before",
        "imprinted",
        "+ head only",
        "+ full",
        "+ head only, balanced",
        "+ full, balanced",
        "from scratch, 1 epochs",
    ]
    assert all(0 <= row["all"] <= 1 for row in found)
    assert found[1]["new"] > 0.5
