"""A bundle, made and installed as a user would, trains and predicts on ARM as on this machine."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.arm.conftest import TRAIN
from tests.arm.emulation import BOARDS, here, inside, start

pytestmark = pytest.mark.slow


def edgetune(root: Path, target: str, *arguments: str) -> str:
    done = inside(root, target, "/opt/edgetune/bin/edgetune", *arguments)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_training_gives_the_losses_of_this_machine(target: str, root: Path, tmp_path: Path) -> None:
    features = "/opt/edgetune/features"
    there = json.loads(edgetune(root, target, "train", features, "--out", "/root/a", *TRAIN))
    ours = json.loads(here("train", f"{root}{features}", "--out", tmp_path / "a", *TRAIN))
    assert there["steps"] == ours["steps"] == 20
    losses = [[epoch["train_loss"] for epoch in run["history"]] for run in (there, ours)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_budget_above_what_the_process_holds_there_is_kept(target: str, root: Path) -> None:
    """Emulation adds the emulator's memory to the process, so the budget is told on top of that."""
    features = "/opt/edgetune/features"
    options = (features, "--batch-size", "12", "--json")
    plan = json.loads(edgetune(root, target, "plan", *options))
    budget = plan["baseline_bytes"] + (8 << 20)
    train = ("train", *options, "--out", "/root/b", "--epochs", "1", "--memory-budget", str(budget))
    assert json.loads(edgetune(root, target, *train))["peak_rss_bytes"] <= budget
    little = inside(root, target, "/opt/edgetune/bin/edgetune", *train[:-1], "1MiB", "--force")
    assert little.returncode == 1 and "memory budget of 1.0MiB cannot be kept" in little.stderr


def test_a_killed_run_goes_on_to_the_same_adaptor(target: str, root: Path) -> None:
    features = "/opt/edgetune/features"
    edgetune(root, target, "train", features, "--out", "/root/whole", *TRAIN)
    command = ("train", features, "--out", "/root/again", *TRAIN)
    command += ("--checkpoint", "/root/checkpoint", "--every", "1")
    with start(root, target, "/opt/edgetune/bin/edgetune", *command) as process:
        while process.poll() is None and len(generations(root)) < 2:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert len(generations(root)) == 2 and not (root / "root/again").exists()
    told = json.loads(edgetune(root, target, *command, "--resume"))
    assert told["steps"] == 20
    assert told["checkpoints_written"] <= 18  # the first two steps were not made again
    whole, again = (root / "root" / name for name in ("whole", "again"))
    assert whole.read_bytes() == again.read_bytes()


def generations(root: Path) -> list[Path]:
    """Files of the run's checkpoint."""
    return list((root / "root/checkpoint").glob("*.safetensors"))


def test_every_runtime_predicts_what_numpy_does_here(target: str, root: Path) -> None:
    graphs = {"ort": "/root/adaptor.onnx", "tflite": "/root/adaptor.tflite"}
    arguments = ("predict", "--features", "/opt/edgetune/features", "--json", "--adaptor")
    carried = "/opt/edgetune/adaptor.safetensors"
    local = [*arguments[:2], f"{root}/opt/edgetune/features", *arguments[3:], f"{root}{carried}"]
    expected = json.loads(here(*local))["predictions"]
    assert len(expected) == 30
    for adaptor in (carried, *(graphs[runtime] for runtime in BOARDS[target].runtimes)):
        found = json.loads(edgetune(root, target, *arguments, adaptor))["predictions"]
        tolerance = 1e-5 if adaptor == carried else 0.02  # the graphs' weights are int8
        for one, other in zip(found, expected):
            top = {best["class"]: best["probability"] for best in one["top"]}
            for best in other["top"]:
                assert top[best["class"]] == pytest.approx(best["probability"], abs=tolerance)


def test_the_plan_and_the_files_are_those_of_this_machine(target: str, root: Path) -> None:
    features = "/opt/edgetune/features"
    intact = json.loads(edgetune(root, target, "inspect", features, "--verify", "--json"))
    assert intact["intact"] is True
    there, ours = (
        json.loads(plan)
        for plan in (
            edgetune(root, target, "plan", features, "--json"),
            here("plan", f"{root}{features}", "--json"),
        )
    )
    assert there["arena_bytes"] == ours["arena_bytes"] > 0


def test_profile_counts_what_it_counts_here(target: str, root: Path) -> None:
    features = "opt/edgetune/features"
    board = root / "board.json"  # of this machine: measuring an emulated one takes minutes
    here("calibrate", "--out", board)
    options = ("--batch-size", "4", "--steps", "1", "--json", "--board")
    there, ours = (
        json.loads(profile)
        for profile in (
            edgetune(root, target, "profile", f"/{features}", *options, "/board.json"),
            here("profile", root / features, *options, board),
        )
    )
    assert there["macs"] == ours["macs"]
    for part in ("training", "inference"):
        assert there[part]["macs"] == ours[part]["macs"] > 0
        assert there[part]["seconds"] > 0 and there[part]["operations"]


def test_accuracy_is_that_of_this_machine(target: str, root: Path) -> None:
    arguments = ("evaluate", "/opt/edgetune/adaptor.safetensors", "/opt/edgetune/features")
    there = json.loads(edgetune(root, target, *arguments, "--json"))
    ours = json.loads(here("evaluate", *(f"{root}{path}" for path in arguments[1:]), "--json"))
    assert there["accuracy"] == ours["accuracy"]
