"""`edgetune sweep` as it is typed: what it writes, prints and refuses, and how it ends early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.adaptor import Adaptor
from tests.command_line import Outcome, edgetune
from tests.feature_folders import write_features
from trainer_lite.history import history_of

ROOT = Path(__file__).parents[2]
GRID = ("--lr", "1e-3,1e-2", "--rank", "2,4", "--weight-decay", "0.1", "--seed", "0,1")
FAST = ("--epochs", 3, "--batch-size", 8, "--blocks", 2)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    return write_features(tmp_path / "features", separation=1.0).path


def sweep(features: Path, *options: object) -> Outcome:
    return edgetune("sweep", features, "--out", features.parent / "out", *FAST, *options)


def test_what_it_writes_and_prints(features: Path) -> None:
    out = features.parent / "out"
    outcome = sweep(features, *GRID, "--json")
    assert outcome.exit_code == 0, outcome
    content = json.loads(outcome.stdout)
    assert sorted(path.name for path in out.iterdir()) == [
        "best.history.json",
        "best.safetensors",
        "sweep.json",
    ]
    assert len(history_of(out / "best.safetensors")["epochs"]) > 0
    report = json.loads((out / "sweep.json").read_text())
    assert report["finished"] and {k: content[k] for k in report if k in content} == {
        k: v for k, v in report.items() if k in content
    }
    members, best = report["members"], report["best"]
    assert [member["options"] for member in members] == [
        {"lr": lr, "rank": rank, "seed": seed, "weight_decay": 0.1}
        for lr in (1e-3, 1e-2)
        for rank in (2, 4)
        for seed in (0, 1)
    ]
    counts = [len(member["val_accuracy"]) for member in members]
    assert sorted(counts) == [1] * 4 + [2] * 2 + [2, 3] or sorted(counts) == [1] * 6 + [2, 3]
    assert [m["dropped_after_epoch"] for m in members] == [None if n == 3 else n for n in counts]
    winner = members[best["member"]]
    assert best["val_accuracy"] == max(max(member["val_accuracy"]) for member in members)
    assert winner["val_accuracy"][best["epoch"] - 1] == best["val_accuracy"]
    assert not any("test_accuracy" in member for member in members)
    adaptor = Adaptor.load(out / "best.safetensors")
    assert {key: adaptor.training[key] for key in winner["options"]} == winner["options"]
    evaluated = json.loads(
        edgetune("evaluate", out / "best.safetensors", features, "--json").stdout
    )
    assert evaluated["accuracy"] == best["test_accuracy"]


def test_the_table_has_every_run_and_marks_the_best(features: Path) -> None:
    outcome = sweep(features, "--lr", "1e-3,1e-2,1e30", "--no-halving")
    assert outcome.exit_code == 0, outcome
    lines = outcome.stdout.splitlines()
    assert "<- best, test 0." in lines[1]
    assert {line.split("  ")[0] for line in lines[1:4]} == {"lr 0.001", "lr 0.01", "lr 1e+30"}
    assert "(diverged)" in lines[3] and lines[3].startswith("lr 1e+30")
    assert "warning: lr 1e+30 is dropped: " in outcome.stderr


def test_refusals(features: Path) -> None:
    out = features.parent / "out"
    assert "numbers with commas" in sweep(features, "--lr", "1e-3,fast").stderr
    assert sweep(features, "--rank", "4,2.5").exit_code == 2
    assert "twice: 4, 4" in sweep(features, "--rank", "4,4").error
    assert "rank 9 is above the feature width 8" in sweep(features, "--rank", "4,9").error
    assert "the learning rate must be finite and above 0" in sweep(features, "--lr", "1,0").error
    assert "the least is" in sweep(features, *GRID, "--memory-budget", "1MiB").error
    assert not out.exists() or not any(out.iterdir())
    assert sweep(features).exit_code == 0
    before = (out / "sweep.json").read_bytes()
    assert "exists already" in sweep(features).error
    assert "exists already" in sweep(features, "--resume").error
    assert (out / "sweep.json").read_bytes() == before
    assert sweep(features, "--force").exit_code == 0


def start(features: Path, *options: object) -> subprocess.Popen[str]:
    command = ["sweep", features, "--out", features.parent / "out", *GRID, *options]
    command += ["--batch-size", 4, "--epochs", 400, "--no-halving", "--memory-budget", "400MiB"]
    return subprocess.Popen(
        [sys.executable, "-m", "edge_runtime.cli", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops(number: int, status: int, features: Path) -> None:
    out = features.parent / "out"
    process = start(features)
    while not (out / "best.safetensors").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (status, ""), stderr
    assert "Traceback" not in stderr
    assert "--resume goes on" in stderr
    names = {path.name for path in out.iterdir()}
    assert {"best.safetensors", "checkpoint-a.safetensors"} <= names
    assert not any(name.endswith(".tmp") for name in names)
    Adaptor.load(out / "best.safetensors")
    if "sweep.json" in names:
        report: Any = json.loads((out / "sweep.json").read_text())
        assert not report["finished"] and len(report["members"]) == 8
    options = (*GRID, "--batch-size", 4, "--epochs", 400, "--no-halving")
    refused = edgetune("sweep", features, "--out", out, *options)
    assert "--resume goes on from it" in refused.error
    process = start(features, "--resume")
    assert process.stderr is not None
    assert "resumed after" in process.stderr.readline()
    process.kill()
    process.communicate()
