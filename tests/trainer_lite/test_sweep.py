"""A sweep gives what single runs give, drops the worse, and outlives a member that diverges."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.adaptor import Adaptor
from edge_runtime.errors import BudgetError, ConfigError, MismatchError
from edge_runtime.features import FeatureFolder
from tests.feature_folders import write_features
from trainer_lite.checkpoint import Checkpoints, Every
from trainer_lite.config import TrainConfig
from trainer_lite.halving import score
from trainer_lite.reports import TrainResult
from trainer_lite.stops import InterruptedRunError, NotFiniteError
from trainer_lite.sweep import Sweep
from trainer_lite.sweep_report import SweepResult
from trainer_lite.sweep_state import SweepProgress
from trainer_lite.trainer import Trainer

CONFIG = TrainConfig(epochs=4, batch_size=8, blocks=2, drop_path=0.1, clip_norm=1.0)
AXES: dict[str, list[Any]] = {"lr": [1e-3, 3e-2], "rank": [2, 4], "seed": [0, 1]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> FeatureFolder:
    path = tmp_path_factory.mktemp("sweep") / "features"
    rows = {"train": 60, "val": 45, "test": 30}
    return FeatureFolder.open(write_features(path, rows=rows, separation=0.6).path)


def sweep(folder: FeatureFolder, axes: Any = AXES, **options: Any) -> SweepResult:
    return Sweep(CONFIG, axes, **options).fit(folder)


@pytest.fixture(scope="module")
def singles(folder: FeatureFolder) -> list[TrainResult]:
    return [Trainer(config).fit(folder) for config in Sweep(CONFIG, AXES).configs]


def vals(result: Any) -> list[float]:
    return [report.val_accuracy for report in result.history]


@pytest.mark.parametrize("threads", [1, 2])
def test_every_member_is_its_single_run(
    threads: int, folder: FeatureFolder, singles: list[TrainResult]
) -> None:
    result = sweep(folder, halving=False, threads=threads)
    assert len({tuple(vals(single)) for single in singles}) > 4  # else this would show nothing
    for member, single in zip(result.members, singles):
        assert vals(member.progress) == vals(single), member.name
        assert losses(member.progress) == pytest.approx(losses(single), rel=1e-5), member.name
        assert member.ended is None


def test_the_best_is_that_of_the_single_runs_and_alone_meets_the_test_split(
    folder: FeatureFolder, singles: list[TrainResult]
) -> None:
    kept: list[dict[str, Any]] = []

    def keep(adaptor: Adaptor) -> None:
        kept.append({name: array.copy() for name, array in adaptor.parameters.items()})

    result = sweep(folder, halving=False, on_best=keep)
    best = max(range(len(singles)), key=lambda i: (max(vals(singles[i])), -first(singles[i]), -i))
    assert result.winner.index == best
    expected = singles[best].best
    assert expected is not None
    assert result.best.training == expected.training
    for name, array in expected.parameters.items():
        np.testing.assert_allclose(result.best.parameters[name], array, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(result.best.parameters[name], kept[-1][name])
    assert result.test is not None
    assert result.test.accuracy == expected.evaluate(folder.split("test")).accuracy


def first(result: TrainResult) -> int:
    assert result.best_epoch is not None
    return result.best_epoch.epoch


def test_halving_keeps_the_better_half_and_those_go_on_as_before(folder: FeatureFolder) -> None:
    whole, halved = sweep(folder, halving=False), sweep(folder)
    left = set(range(8))
    for now in halved.rounds[:-1]:
        ranked = sorted(
            left,
            key=lambda i: (score(whole.members[i].progress.history[: now.last]), -i),
            reverse=True,
        )
        for index in ranked[now.keep :]:
            member = halved.members[index]
            assert len(member.progress.history) == now.last
            assert f"not among the best {now.keep}" in str(member.ended)
        left = set(ranked[: now.keep])
    assert len(left) == 1
    for one, other in zip(halved.members, whole.members):
        count = len(one.progress.history)
        assert vals(one.progress) == vals(other.progress)[:count]
        assert (count == CONFIG.epochs) == (one.index in left)
    assert halved.best.training["seed"] == halved.winner.config.seed


def test_a_member_that_diverges_is_dropped_named_and_harms_no_other(
    folder: FeatureFolder,
) -> None:
    warnings: list[str] = []
    axes = {"lr": [1e-3, 1e30, 3e-2], "rank": [2, 4]}
    result = sweep(folder, axes, halving=False, on_warning=warnings.append)
    assert [member.diverged for member in result.members] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    assert {message for message in warnings if "is dropped" in message} == {
        f"warning: {member.name} is dropped: {member.ended}" for member in result.members[2:4]
    }
    assert "lr 1e+30, rank 2" in " ".join(warnings)
    for member in result.members[:2] + result.members[4:]:
        single = Trainer(member.config).fit(folder)
        assert vals(member.progress) == vals(single)
    with pytest.raises(NotFiniteError, match="every member was dropped: lr 1e"):
        sweep(folder, {"lr": [1e30, 1e31]})


def test_a_budget_is_refused_with_the_least_that_does(folder: FeatureFolder) -> None:
    with pytest.raises(BudgetError, match=r"the least is .*fewer values on a grid of 8 members"):
        sweep(folder, memory_budget=1 << 20)


def test_more_members_are_planned_to_take_more(folder: FeatureFolder) -> None:
    one, four = (sweep(folder, {"lr": [1e-3, 2e-3, 3e-3, 4e-3][:n]}).plan for n in (1, 4))
    assert four.parameter_bytes > 3 * one.parameter_bytes
    assert one.arena_bytes < four.arena_bytes < 4 * one.arena_bytes


def test_a_stop_ends_it_between_steps(folder: FeatureFolder) -> None:
    steps: list[int] = []
    with pytest.raises(InterruptedRunError, match="stopped after 12 steps"):
        sweep(
            folder,
            on_step=lambda count, note: steps.append(count),
            stop_requested=lambda: len(steps) == 3,
        )
    assert len(steps) == 3


@pytest.mark.parametrize("threads", [1, 2])
def test_a_sweep_that_is_stopped_again_and_again_ends_with_the_same_bytes(
    threads: int, folder: FeatureFolder, tmp_path: Path
) -> None:
    axes = {"lr": [1e-3, 1e30, 3e-2], "rank": [2, 4], "seed": [0, 1]}
    expected, found, stops = sweep(folder, axes, threads=threads), None, 0
    while found is None:
        runs = Sweep(CONFIG, axes, threads=threads)
        runs.checkpoints = Checkpoints(tmp_path, Every(steps=40), resume=True, kind=SweepProgress)
        asked = itertools.count()
        runs.stop_requested = lambda at=17 + 3 * stops, asked=asked: next(asked) > at
        try:
            found = runs.fit(folder)
        except InterruptedRunError as error:
            stops += error.saved
    assert stops > 3
    for one, other in zip(found.members, expected.members):
        assert (one.ended, one.diverged) == (other.ended, other.diverged)
        assert losses(one.progress) == losses(other.progress)
        assert vals(one.progress) == vals(other.progress)
    assert found.winner.index == expected.winner.index
    assert found.test is not None and expected.test is not None
    assert found.test.accuracy == expected.test.accuracy
    for name, array in expected.best.parameters.items():
        np.testing.assert_array_equal(found.best.parameters[name], array)
    other = Sweep(CONFIG, {**axes, "rank": [2]})
    other.checkpoints = Checkpoints(tmp_path, resume=True, kind=SweepProgress)
    with pytest.raises(MismatchError, match="runs was 12, is 6"):
        other.fit(folder)


def losses(result: Any) -> list[float]:
    return [report.train_loss for report in result.history]


def test_steps_that_were_spared_count_as_done(folder: FeatureFolder) -> None:
    axes = {"lr": [1e-3, 1e30]}
    runs = Sweep(CONFIG, axes, halving=False)
    done: list[int] = []
    runs.on_step = lambda count, note: done.append(count)
    runs.fit(folder)
    assert sum(done) == runs.member_epochs * 8 == 2 * 4 * 8


def test_features_without_a_val_split_are_refused(tmp_path: Path, folder: FeatureFolder) -> None:
    path = write_features(tmp_path / "features", rows={"train": 24, "test": 9}).path
    with pytest.raises(ConfigError, match="a sweep chooses on the val split"):
        sweep(FeatureFolder.open(path))
    with pytest.raises(ConfigError, match="a sweep chooses on the val split"):
        Sweep(replace(CONFIG, fit_on="train+val"), AXES).fit(folder)
