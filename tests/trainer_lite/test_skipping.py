"""Steps that are not finite, long gradients, and denormals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.features import FeatureFolder
from tests.feature_folders import write_features
from trainer_lite.config import TrainConfig
from trainer_lite.optim import CHUNK, clip, gradient_norm
from trainer_lite.reports import TrainResult
from trainer_lite.step import TrainingStep
from trainer_lite.stops import NotFiniteError
from trainer_lite.trainer import Trainer

CONFIG = TrainConfig(epochs=3, batch_size=8, rank=4, blocks=2)  # 3 steps an epoch


@pytest.fixture
def folder(tmp_path: Path) -> FeatureFolder:
    return FeatureFolder.open(write_features(tmp_path / "features").path)


def spoil(monkeypatch: pytest.MonkeyPatch, what: str, *steps: int) -> None:
    """Makes the loss NaN, or an entry of the gradient infinite, in those steps (from 1)."""
    real, calls = TrainingStep.run, iter(range(1, 1000))

    def run(self: TrainingStep, rows: Any, *arguments: Any) -> tuple[float, int]:
        loss, correct = real(self, rows, *arguments)
        if len(rows) < 8 or next(calls) not in steps:  # a rehearsal's batches are smaller
            return loss, correct
        if what == "gradient":
            self.gradient[-1] = np.inf
        return (math.nan if what == "loss" else loss), correct

    monkeypatch.setattr(TrainingStep, "run", run)


def fit(folder: FeatureFolder, warnings: list[str], **options: Any) -> TrainResult:
    return Trainer(CONFIG, on_warning=warnings.append, **options).fit(folder)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(
    what: str, folder: FeatureFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, what, 1, 2, 5)
    warnings: list[str] = []
    result = fit(folder, warnings)
    assert (result.steps, result.skipped_steps) == (9, 3)
    assert [line.split(",")[0] for line in warnings] == [
        f"warning: step {step} is skipped" for step in (1, 2, 5)
    ]
    assert "batch 2 of epoch 1 (rows " in warnings[1]
    assert all(math.isfinite(report.train_loss) for report in result.history)
    assert all(np.isfinite(array).all() for array in result.adaptor.parameters.values())


def test_several_in_a_row_end_the_run_with_the_batch_named(
    folder: FeatureFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "loss", 4, 5, 6)
    with pytest.raises(NotFiniteError) as raised:
        fit(folder, [])
    assert "3 steps in a row had to be skipped" in str(raised.value)
    assert "the last with batch 3 of epoch 2 (rows " in str(raised.value)
    assert raised.value.learnt and raised.value.result is not None


def test_nothing_is_kept_of_a_run_that_learnt_nothing(
    folder: FeatureFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "gradient", 1, 2, 3)
    with pytest.raises(NotFiniteError) as raised:
        fit(folder, [])
    assert raised.value.result is None


@pytest.mark.parametrize("size", [5, CHUNK, 2 * CHUNK + 7])
def test_norm_and_clipping_by_their_formulas(size: int) -> None:
    gradient = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    norm = gradient_norm(gradient)
    assert norm == pytest.approx(np.linalg.norm(gradient.astype(np.float64)), rel=1e-6)
    kept = gradient.copy()
    clip(gradient, norm, norm * 2)
    np.testing.assert_array_equal(gradient, kept)
    clip(gradient, norm, 0.25)
    assert gradient_norm(gradient) == pytest.approx(0.25, rel=1e-5)
    np.testing.assert_allclose(gradient, kept * (0.25 / norm), rtol=1e-5)
    for bad in (np.nan, np.inf, -np.inf, 1e30):
        gradient[size // 2] = bad
        with np.errstate(all="ignore"):  # as in a run
            assert not math.isfinite(gradient_norm(gradient))


def test_clipping_changes_a_run_only_where_gradients_are_longer(folder: FeatureFolder) -> None:
    found = []
    for limit in (None, 1e6, 1e-3):
        config = TrainConfig(epochs=2, batch_size=8, rank=4, blocks=2, clip_norm=limit)
        found.append(Trainer(config).fit(folder).history[-1].train_loss)
    assert found[0] == found[1] != found[2]
