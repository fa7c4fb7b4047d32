"""The table of peers: equal gradients before any time, and a reason where there is no time."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import environments
from benchmarks.peers.compare import Comparison, Peer, Row, largest_difference
from benchmarks.peers.environments import Environment, Installed, installed
from benchmarks.peers.problem import Problem, by_block, gathered, write_problem
from benchmarks.peers.process import ROOT, PeerError, PeerProcess
from benchmarks.peers.table import table

TINY = {"tokens": 9, "dim": 24, "blocks": 2, "rank": 4, "heads": 2, "classes": 5, "batch": 6}
HERE = Installed([], sys.executable, None, None, None)
OURS = "benchmarks.peers.trainers.edgetune"


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("problem")
    write_problem(folder, **TINY, tile=None)
    return folder


def compared(problem: Path, folder: Path, *modules: str, turns: int = 2) -> list[Row]:
    """A comparison of these trainer modules, in this environment."""

    def start(peer: Peer, environment: Installed) -> PeerProcess:
        return process_of(peer.name, problem, folder / "log", environment.python)

    comparison = Comparison(
        install=lambda environment: HERE, start=start, folder=folder, tell=lambda line: None
    )
    nothing = Environment("here", (), "")
    return comparison.run([Peer(name, name, nothing) for name in modules], turns)


def process_of(
    module: str, problem: Path, log: Path, python: str | Path = sys.executable, seconds: float = 60
) -> PeerProcess:
    return PeerProcess(
        module, python=Path(python), problem=problem, threads=1, log=log, seconds=seconds
    )


def test_wrong_gradients_get_a_reason_and_no_time(problem: Path, tmp_path: Path) -> None:
    modules = (OURS, "tests.benchmarks.wrong_trainer", "tests.benchmarks.no_such_trainer", OURS)
    ours, wrong, missing, again = compared(problem, tmp_path, *modules)
    assert ours.reason is None and again.reason is None
    assert wrong.reason is not None and wrong.reason.startswith("refused: gradients differ")
    assert wrong.gradient_difference == pytest.approx(1e-3, rel=0.01)
    assert missing.reason is not None and "No module named" in missing.reason
    for row in (wrong, missing):
        assert row.seconds == [] and row.step_seconds is None and row.ratio_to(ours) is None
    for row in (ours, again):
        assert len(row.seconds) == 2 and min(row.seconds) > 0
        assert row.gradient_difference == 0 and row.final_loss_difference == 0
        assert row.versions == {"numpy": np.__version__}
        assert row.peak_rss_bytes is not None and 10 << 20 < row.peak_rss_bytes < 200 << 20
    printed = table([ours, wrong, missing, again], turns=2, threads=1)
    assert f"{wrong.peer.title}: no time: refused" in printed
    assert f"{missing.peer.title}: no time: ModuleNotFoundError" in printed


def test_nothing_is_compared_with_ours_when_ours_fails(problem: Path, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="No module named"):
        compared(problem, tmp_path, "tests.benchmarks.no_such_trainer", OURS)


def test_the_command_prints_a_row_for_every_peer(tmp_path: Path) -> None:
    shape = [f"--{name}={value}" for name, value in TINY.items()]
    only = [f"--only={name}" for name in ("floor", "litert", "jax_jit", "torch_eager")]
    command = [sys.executable, "-m", "benchmarks.peers", "--here", "--json", "--repeats=2"]
    finished = subprocess.run(
        [*command, *shape, *only, f"--cache={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    rows = {row["peer"]: row for row in result["peers"]}
    assert list(rows) == ["edgetune", "floor", "torch_eager", "jax_jit", "litert"]
    assert result["ratio_to_two_wide_products"] > 0
    needed = {
        "torch_eager": ["torch"],
        "jax_jit": ["jax"],
        "litert": ["tensorflow", "ai_edge_litert"],
    }
    for name, packages in needed.items():
        row = rows[name]
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            assert f"No module named '{missing[0]}'" in row["reason"]
        else:
            assert row["reason"] is None and row["gradient_difference"] < 1e-4
            assert row["final_loss_difference"] < 1e-4


def test_a_shape_that_no_adaptor_can_have_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.peers", "--here", f"--cache={tmp_path}"]
    finished = subprocess.run(
        [*command, "--dim=4", "--rank=8"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert finished.returncode == 1 and finished.stdout == ""
    assert finished.stderr.startswith("Error: rank 8 is above the feature width 4")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo gone wrong >&2; exit 3", "exit status 3: gone wrong"),
        ("exec sleep 60", "no answer within"),
        ("echo Segmentation fault", "an answer was expected"),
    ],
)
def test_a_process_that_fails_is_named(
    script: str, reason: str, problem: Path, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    with pytest.raises(PeerError, match=reason):
        process_of(OURS, problem, tmp_path / "log", python, seconds=0.5)


def test_an_interpreter_that_is_not_there_is_named(problem: Path, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="No such file"):
        process_of(OURS, problem, tmp_path / "log", tmp_path / "python")


def test_all_differences_count() -> None:
    ours = (2.0, {"a": np.array([1.0, -4.0]), "b": np.zeros(3)})
    assert largest_difference(ours, ours) == 0
    assert largest_difference(ours, (2.002, ours[1])) == pytest.approx(1e-3)
    assert largest_difference(ours, (2.0, {**ours[1], "a": np.array([1.0, -4.4])})) == (
        pytest.approx(0.1)
    )
    others: list[dict[str, Any]] = [
        {"a": ours[1]["a"]},
        {**ours[1], "a": np.array([np.nan, -4.0])},
        {**ours[1], "b": np.full(3, 1e-9)},
        {**ours[1], "b": np.zeros(2)},
        {**ours[1], "c": np.zeros(1)},
    ]
    for other in others:
        assert largest_difference(ours, (2.0, other)) == float("inf")


def test_blocks_apart_and_together_again(problem: Path) -> None:
    read = Problem.read(problem)
    apart = by_block(read.start)
    assert len(apart) == 4 * TINY["blocks"] + 4
    assert all(np.abs(values).min() > 0 for values in apart.values())
    for name, values in gathered(apart).items():
        np.testing.assert_array_equal(np.array(values), read.start[name])


def test_an_environment_is_made_once_and_failures_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def pretend(command: list[str]) -> None:
        commands.append(command)
        if "venv" in command:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.write_text("")
        elif "install" in command:
            (Path(command[0]).parent / "package").write_bytes(b"x" * 9000)
            if "broken" in command:
                raise PeerError("not installed: ERROR: no such thing")
        elif "index" in command:
            raise PeerError("ERROR: No matching distribution found for torch")

    monkeypatch.setattr(environments, "run", pretend)
    wanted = Environment("one", ("torch", "unpinned"), "torch")
    made = installed(wanted, tmp_path)
    assert made.requirements[0].startswith("torch==") and made.requirements[1] == "unpinned"
    assert made.install_bytes is not None and 9000 <= made.install_bytes <= 16384
    assert made.aarch64_wheel is False
    count = len(commands)
    assert installed(wanted, tmp_path) == made and len(commands) == count
    installed(Environment("one", ("torch",), "torch"), tmp_path)  # other requirements: made anew
    assert len(commands) == 2 * count
    with pytest.raises(PeerError, match="no such thing"):
        installed(Environment("two", ("broken",), "broken"), tmp_path)
    assert not (tmp_path / "two").exists()
