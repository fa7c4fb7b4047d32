"""Memory budgets: told before, kept during, refused in time."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import BudgetError
from tests.feature_folders import write_features
from trainer_lite.budget import LOADING_JITTER, MemoryPlan, Planner, choose_tile, sizes
from trainer_lite.config import TrainConfig
from trainer_lite.data import prepare_shape
from trainer_lite.parameters import ParameterSet

ROOT = Path(__file__).parents[2]
SHAPE = {"tokens": 197, "embed_dim": 192}
MEBIBYTE = 1 << 20
NONE: Mapping[str, str] = {}


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("budget") / "masked"
    rows = {"train": 40, "val": 10, "test": 10}
    return write_features(folder, rows=rows, shard_rows=20, mask_size=224, classes=30, **SHAPE).path


@pytest.mark.parametrize("options", [(), ("--blocks", 0), ("--threads", 2)], ids=str)
def test_the_peak_with_masks_is_what_was_predicted(
    masked: Path, tmp_path: Path, options: Any
) -> None:
    found = trained(masked, tmp_path / "a.safetensors", "--kind", "segmentation", *options)
    ratio = found["predicted_peak_rss_bytes"] / found["peak_rss_bytes"]
    assert 1.0 <= ratio < 1.05


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("budget") / "features"
    rows = {"train": 40, "val": 10, "test": 10}
    return write_features(folder, rows=rows, shard_rows=20, **SHAPE).path


def edgetune(
    *arguments: Any, before: Any = None, environment: Mapping[str, str] = NONE
) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own, whose peak RSS is its own."""
    command = [sys.executable, "-m", "edge_runtime.cli", *map(str, arguments)]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        command, capture_output=True, text=True, env=settings, preexec_fn=before, timeout=120
    )


def trained(
    features: Path, out: Path, *options: Any, environment: Mapping[str, str] = NONE
) -> dict[str, Any]:
    command = ("train", features, "--out", out, "--epochs", 2, "--json", *options)
    result = edgetune(*command, environment=environment)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--rank", 16, "--blocks", 6),
        ("--kind", "linear"),
        ("--heads", 4, "--drop-path", 0.1),
        ("--threads", 2),
    ],
    ids=str,
)
def test_the_peak_is_what_was_predicted(features: Path, tmp_path: Path, options: Any) -> None:
    found = trained(features, tmp_path / "a.safetensors", *options)
    ratio = found["predicted_peak_rss_bytes"] / found["peak_rss_bytes"]
    assert 1.0 <= ratio < 1.05


def test_the_peak_with_checkpoints_is_what_was_predicted(features: Path, tmp_path: Path) -> None:
    saved = ("--checkpoint", tmp_path / "run", "--every", 1)
    plan = json.loads(edgetune("plan", features, *saved[:2], "--json").stdout)
    budget = plan["least_budget_bytes"] + MEBIBYTE  # for what `tests.faulty` itself loads
    options = (*saved, "--resume", "--memory-budget", budget, "--epochs", 8)
    fault = [sys.executable, "-m", "tests.faulty", '{"kill": "replaced", "at": 9}']
    command = (*fault, "train", features, "--out", tmp_path / "a", *options)
    assert subprocess.run([str(part) for part in command], cwd=ROOT).returncode == -signal.SIGKILL
    found = trained(features, tmp_path / "a", *options)
    assert found["checkpoints_written"] >= 4
    assert found["peak_rss_bytes"] <= budget
    assert 1.0 <= found["predicted_peak_rss_bytes"] / found["peak_rss_bytes"] < 1.05


def test_a_run_from_an_adaptor_is_planned(features: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    trained(features, base, "--rank", 16)
    for options in (("--init", base), ("--init", base, "--head-only")):
        planned = json.loads(edgetune("plan", features, "--json", *options).stdout)
        found = trained(features, tmp_path / "a.safetensors", "--force", *options)
        assert planned["tile_images"] == found["tile_images"]
        assert planned["arena_bytes"] == found["arena_bytes"]
        assert 1 <= planned["predicted_peak_rss_bytes"] / found["peak_rss_bytes"] < 1.05


def test_a_smaller_budget_means_smaller_tiles_and_the_same_training(
    features: Path, tmp_path: Path
) -> None:
    large = ("--heads", 8, "--blocks", 6)  # so that a tile counts more than loading numpy
    free = trained(features, tmp_path / "free.safetensors", *large)
    plan = json.loads(edgetune("plan", features, "--json", *large).stdout)
    budget = plan["least_budget_bytes"]
    bound = trained(features, tmp_path / "bound.safetensors", "--memory-budget", budget, *large)
    assert free["tile_images"] == 2
    assert bound["tile_images"] == 1
    assert bound["peak_rss_bytes"] <= budget == bound["memory_budget_bytes"]
    assert bound["train_loss"] == pytest.approx(free["train_loss"], abs=1e-5)


def test_docstrings_left_out_leave_the_same_adaptor(features: Path, tmp_path: Path) -> None:
    plain, bare = tmp_path / "plain.safetensors", tmp_path / "bare.safetensors"
    # its .pyc files lie elsewhere: the first run makes them, the second is what users see
    lean = {
        "PYTHONOPTIMIZE": "2",
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(tmp_path),
    }
    peaks = [trained(features, plain)["peak_rss_bytes"]]
    for _ in range(2):
        peaks.append(trained(features, bare, "--force", environment=lean)["peak_rss_bytes"])
    assert bare.read_bytes() == plain.read_bytes()
    assert peaks[0] - peaks[-1] > MEBIBYTE


def test_a_budget_that_cannot_be_kept_is_refused_with_the_least(
    features: Path, tmp_path: Path
) -> None:
    for command in (("plan", features), ("train", features, "--out", tmp_path / "a")):
        result = edgetune(*command, "--memory-budget", "20MiB")
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert "a memory budget of 20.0MiB cannot be kept: the least is " in line
        assert "--rank" in line
    assert list(tmp_path.iterdir()) == []


def test_the_least_budget_is_accepted(features: Path, tmp_path: Path) -> None:
    refusal = edgetune("plan", features, "--memory-budget", "1MiB").stderr
    least = refusal.partition("the least is ")[2].partition(",")[0]
    found = trained(features, tmp_path / "a.safetensors", "--memory-budget", least)
    assert found["peak_rss_bytes"] <= found["memory_budget_bytes"]


def test_a_run_that_passes_its_budget_is_stopped_and_kept(features: Path, tmp_path: Path) -> None:
    code = f"""
import trainer_lite.budget as budget
peaks = iter([0])  # as it is planned, then while it runs
budget.peak_rss_bytes = lambda: next(peaks, 1 << 40)
from edge_runtime.cli import main
main(["train", {str(features)!r}, "--out", {str(tmp_path / "a.st")!r}, "--memory-budget", "1GiB"])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 1
    assert "the run passed its memory budget" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.stopped.st"]
    assert edgetune("inspect", tmp_path / "a.stopped.st").returncode == 0


def planner(*, elsewhere: bool = False, **options: Any) -> Planner:
    config = TrainConfig(**options)
    from edge_runtime.codecs import CODECS

    data = prepare_shape(config, CODECS["float16"], 197, 192, 10, 100)
    made = Planner(data.adaptor, config, data.source, data.evaluated, elsewhere=elsewhere)
    made.loading_bytes = 0  # the peak of whatever ran in this process before
    return made


def test_planning_allocates_next_to_nothing() -> None:
    from edge_runtime.memory import rss_bytes

    made = planner(rank=64, blocks=8)
    made.plan(1)
    before = rss_bytes()
    plan = made.plan(1)
    assert plan.arena_bytes + plan.parameter_bytes > 16 * MEBIBYTE
    assert rss_bytes() - before < 2 * MEBIBYTE


def test_the_largest_tile_that_fits_is_chosen() -> None:
    made = planner()
    plans = [made.plan(tile) for tile in (1, 2)]
    needs = [plan.predicted_peak_rss_bytes for plan in plans]
    assert needs[0] < needs[1]
    assert choose_tile(made, None).tile_images == made.largest_tile == 2
    assert choose_tile(made, needs[1] + MEBIBYTE).tile_images == 2
    with pytest.raises(BudgetError, match="the least is"):
        choose_tile(made, needs[0] // 2)


def test_what_blas_kept_of_a_tile_too_large_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def kept(config: Any, images: int, lanes: int) -> int:
        measured.append(images)
        return MEBIBYTE // 2

    monkeypatch.setattr("trainer_lite.budget.blas_bytes", kept)
    needs = [planner().plan(tile).predicted_peak_rss_bytes for tile in (1, 2)]
    made = planner()
    untried = made.plan(2, budget=needs[0] // 2)  # the rest is too large already
    assert untried.blas_bytes == 0
    measured.clear()
    chosen = choose_tile(made, needs[1] + MEBIBYTE // 4)  # 2 fits until it is measured as well
    assert measured[:2] == [1, 2]
    assert chosen.blas_bytes >= MEBIBYTE
    assert chosen.predicted_peak_rss_bytes <= needs[1] + MEBIBYTE // 4


def test_parts_add_up_to_the_prediction() -> None:
    plan: MemoryPlan = planner().plan(2)
    parts = (plan.baseline_bytes, plan.blas_bytes, plan.object_bytes, plan.parameter_bytes)
    assert sum(parts) + plan.weights_bytes + plan.arena_bytes == plan.predicted_peak_rss_bytes
    config = planner().adaptor
    assert plan.parameter_bytes == 3 * ParameterSet(config, np.float32).flat.nbytes


def test_no_less_is_predicted_than_loading_took() -> None:
    made, other = planner(), planner(elsewhere=True)
    made.loading_bytes = other.loading_bytes = 1 << 40
    assert made.plan(1).predicted_peak_rss_bytes == 1 << 40
    assert made.plan(1).budget_bytes == (1 << 40) + LOADING_JITTER
    assert other.plan(1).predicted_peak_rss_bytes == other.plan(1).budget_bytes
    assert other.plan(1).budget_bytes == made.plan(1).budget_bytes
    with pytest.raises(BudgetError, match="cannot be kept"):
        choose_tile(made, 1 << 39)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc/self/smaps")
def test_a_run_holds_less_than_loading_left_behind(features: Path) -> None:
    plan = json.loads(edgetune("plan", features, "--json").stdout)
    assert plan["baseline_bytes"] < plan["loading_bytes"] - MEBIBYTE


def test_sizes_of_tiles() -> None:
    assert sizes(2, [32, 0]) == {2}
    assert sizes(23, [64, 36]) == {23, 18, 13}
    assert sizes(5, [3]) == {5, 3}


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux keeps them")
@pytest.mark.parametrize("limit", ["address_space", "data_segment"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_gets_by_with_the_limits_that_plan_names(
    features: Path, tmp_path: Path, limit: str, threads: int
) -> None:
    plan = json.loads(edgetune("plan", features, "--threads", threads, "--json").stdout)
    need = plan[f"{limit}_bytes"]
    options = ("--out", tmp_path / "a", "--epochs", 1, "--threads", threads)

    def limited(nbytes: int) -> subprocess.CompletedProcess[str]:
        def apply() -> None:
            kind = {"address_space": resource.RLIMIT_AS, "data_segment": resource.RLIMIT_DATA}
            resource.setrlimit(kind[limit], (nbytes, nbytes))

        return edgetune("train", features, *options, "--force", before=apply)

    found = limited(need)
    assert found.returncode == 0, found.stderr
    if threads > 1:  # what BLAS and malloc reserve for a thread differs from run to run
        return
    refused = limited(need - 4 * MEBIBYTE)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith("Error: the run needs")


def test_what_train_has_loaded_when_it_plans_is_loaded_by_plan(
    features: Path, tmp_path: Path
) -> None:
    loaded = []
    for command in (
        ["plan", str(features)],
        ["train", str(features), "--out", str(tmp_path / "a")],
    ):
        code = f"""
import sys
import edge_runtime.cli
import trainer_lite.budget as budget
def told(*arguments, **options):
    print(*sys.modules)
    raise SystemExit
budget.Planner.__init__ = told
edge_runtime.cli.main({command!r})
"""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        loaded.append(set(done.stdout.split()))
    assert "trainer_lite.trainer" in loaded[1]
    assert loaded[1] - loaded[0] == set()
