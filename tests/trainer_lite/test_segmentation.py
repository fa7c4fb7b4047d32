"""Training on masks: from features to mean IoU, saved, gone on with, refused where it cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.adaptor import Adaptor
from edge_runtime.codecs import CODECS
from edge_runtime.config import IGNORED
from edge_runtime.errors import ConfigError, DataError, FormatError, MismatchError
from edge_runtime.features import FeatureFolder
from edge_runtime.metrics import PixelEvaluation
from edge_runtime.pixels import bilinear
from tests.feature_folders import alter_shard, write_features
from tests.problems import config_of, problem_of, random_parameters, step_of
from trainer_lite.checkpoint import Checkpoints, Every
from trainer_lite.config import TrainConfig
from trainer_lite.data import sources
from trainer_lite.frontier import frontier
from trainer_lite.growing import grow
from trainer_lite.report import report
from trainer_lite.start import Start
from trainer_lite.stops import InterruptedRunError
from trainer_lite.sweep import Sweep
from trainer_lite.trainer import Trainer

Array = np.ndarray[Any, Any]

SHAPE: dict[str, Any] = {"tokens": 17, "embed_dim": 16, "mask_size": 32}
CONFIG = TrainConfig(kind="segmentation", rank=4, blocks=2, epochs=12, batch_size=8, seed=3)


@pytest.fixture
def folder(tmp_path: Path) -> FeatureFolder:
    return FeatureFolder.open(write_features(tmp_path / "features", **SHAPE).path)


def plain_evaluation(adaptor: Adaptor, features: FeatureFolder, split: str) -> PixelEvaluation:
    """Every pixel of every image at once."""
    rows = features.split(split)
    weights = bilinear(4, 32)
    predicted = (weights @ adaptor.predict_logits(rows) @ weights.T).argmax(axis=1)
    truth = np.empty((rows.rows, 32, 32), np.uint8)
    rows.read_masks(np.arange(rows.rows), truth)
    known = truth != IGNORED
    confusion = np.zeros((3, 3), np.int64)
    np.add.at(confusion, (truth[known], predicted[known]), 1)
    return PixelEvaluation(confusion)


@pytest.mark.parametrize("blocks", [0, 2])
@pytest.mark.parametrize("threads", [1, 2])
def test_masks_are_learnt_and_pixels_are_counted(
    blocks: int, threads: int, folder: FeatureFolder, tmp_path: Path
) -> None:
    config = TrainConfig(kind="segmentation", rank=4, blocks=blocks, epochs=25, batch_size=8)
    result = Trainer(config, threads=threads, tile=2).fit(folder)
    assert isinstance(result.test, PixelEvaluation)
    assert result.test.mean_iou > 0.7  # patches of 8 pixels: the edges between them are blurred
    assert result.history[-1].train_accuracy > 0.95
    result.adaptor.save(tmp_path / "a.safetensors")
    loaded = Adaptor.load(tmp_path / "a.safetensors")
    for found in (loaded.evaluate(folder.split("test")), plain_evaluation(loaded, folder, "test")):
        np.testing.assert_array_equal(found.confusion, result.test.confusion)
    probabilities = loaded.predict_proba(folder.split("test"))
    assert probabilities.shape == (10, 3, 4, 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert result.best is not None
    best = result.best.evaluate(folder.split("val")).score
    assert best == max(report.val_accuracy or 0 for report in result.history)


@pytest.mark.parametrize("stop", [5, 17])
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    stop: int, folder: FeatureFolder, tmp_path: Path
) -> None:
    whole = Trainer(CONFIG).fit(folder)
    steps = iter(range(stop))
    checkpoints = Checkpoints(tmp_path / "run", Every(1))
    with pytest.raises(InterruptedRunError):
        Trainer(
            CONFIG, checkpoints=checkpoints, stop_requested=lambda: next(steps, None) is None
        ).fit(folder)
    again = Trainer(CONFIG, checkpoints=Checkpoints(tmp_path / "run", resume=True)).fit(folder)
    for name, values in whole.adaptor.parameters.items():
        assert again.adaptor.parameters[name].tobytes() == values.tobytes(), name
    assert again.best is not None
    assert whole.best is not None
    assert again.best.parameters["head.weight"].tobytes() == (
        whole.best.parameters["head.weight"].tobytes()
    )
    # rates differ, all else is the same
    history = [(r.train_loss, r.train_accuracy, r.val_accuracy) for r in again.history]
    assert history == [(r.train_loss, r.train_accuracy, r.val_accuracy) for r in whole.history]


@pytest.mark.parametrize("tile", [2, 5, 32])
def test_tiles_change_nothing(tile: int) -> None:
    """ViT-Ti/16 shapes in float32, an image without labels among them."""
    config = config_of(kind="segmentation", tokens=197, embed_dim=192, rank=8, blocks=4, classes=21)
    problem = problem_of(config, 32, np.float32)
    found = []
    for images in (1, tile):
        step = step_of(random_parameters(config, np.float32), problem, batch=32, tile=images)
        loss, correct = step.run(np.arange(32), problem.labels)
        found.append((loss, correct, {name: g.copy() for name, g in step.gradients.items()}))
    (loss, correct, expected), (other, same, gradients) = found
    assert other == pytest.approx(loss, rel=1e-6)
    assert same == correct
    for name, gradient in expected.items():
        error = np.abs(gradients[name] - gradient).max() / np.abs(gradient).max()
        assert error < 1e-5, name


def test_val_can_be_fitted_on_too(folder: FeatureFolder) -> None:
    source = sources(replace(CONFIG, fit_on="train+val"), folder)[0]
    rows = np.array([1, 25, 23, 30])
    found, expected = np.empty((2, 4, 32, 32), np.uint8)
    source.read_masks(rows, found)  # type: ignore[attr-defined]
    for row, out in zip(rows, expected):
        name, local = ("train", row) if row < 24 else ("val", row - 24)
        folder.split(name).read_masks(np.array([local]), out[None])
    np.testing.assert_array_equal(found, expected)
    config = TrainConfig(kind="segmentation", rank=4, blocks=1, epochs=8, fit_on="train+val")
    assert Trainer(config).fit(folder).history[-1].train_accuracy > 0.5


def test_a_batch_without_labels_has_no_gradient() -> None:
    config = config_of(kind="segmentation")
    problem = problem_of(config, 4, np.float32)
    labels = np.full_like(problem.labels, IGNORED)
    step = step_of(random_parameters(config, np.float32), problem, batch=4, tile=2)
    assert step.run(np.arange(4), labels) == (0.0, 0)
    assert not step.gradient.any()


def test_codecs_are_compared_on_masks(folder: FeatureFolder) -> None:
    config = TrainConfig(kind="segmentation", rank=4, blocks=1, epochs=4, batch_size=8)
    points = frontier(folder, config, [0], lambda count, note: None)
    assert {point.codec for point in points} == set(CODECS) - {"float32"}
    assert all(0 < point.val[0] <= 1 for point in points)


def test_labels_and_kinds_must_go_together(folder: FeatureFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has masks; use --kind segmentation"):
        Trainer(TrainConfig(epochs=1, batch_size=8)).fit(folder)
    plain = FeatureFolder.open(write_features(tmp_path / "plain", tokens=17, embed_dim=16).path)
    with pytest.raises(ConfigError, match="needs masks, and .* has none"):
        Trainer(CONFIG).fit(plain)
    adaptor = Trainer(TrainConfig(kind="segmentation", blocks=1, rank=2, epochs=1)).fit
    with pytest.raises(ConfigError, match="batch size 32 is larger"):
        adaptor(folder)
    trained = Trainer(CONFIG).fit(folder).adaptor
    with pytest.raises(MismatchError, match="kind segmentation, and .* a class an image"):
        trained.labelled(plain, "test")
    with pytest.raises(MismatchError, match="features that have masks"):
        trained.evaluate(plain.split("test"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "cls"}, "pools nothing"),
        ({"tokens": 9}, "8 are none"),
        ({"blocks": 0}, "blocks and rank must be 0"),
        ({"classes": 256}, "at most 255 classes"),
    ],
)
def test_shapes_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(**{"kind": "segmentation", **changes})


def test_masks_that_say_nothing_are_refused(tmp_path: Path) -> None:
    def ruined(change: Any) -> FeatureFolder:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        write_features(path, shard_rows=24, **SHAPE)
        alter_shard(path, "train", change)
        return FeatureFolder.open(path)

    with pytest.raises(DataError, match="no patch of .* has a class"):
        Trainer(CONFIG).fit(ruined(lambda tensors: tensors["labels"].fill(IGNORED)))
    with pytest.raises(DataError, match="all labelled patches of .* are of one class"):
        Trainer(CONFIG).fit(ruined(lambda tensors: tensors["labels"].fill(1)))
    with pytest.raises(FormatError, match="a label of split train names no class"):
        Trainer(CONFIG).fit(ruined(lambda tensors: tensors["labels"].fill(3)))
    broken = ruined(lambda tensors: tensors["masks"].fill(3))
    with pytest.raises(FormatError, match="a mask of split train names no class"):
        Trainer(CONFIG).fit(broken).adaptor.evaluate(broken.split("train"))


def test_what_classifiers_alone_have_is_refused(folder: FeatureFolder, tmp_path: Path) -> None:
    for changes in ({"balance": True}, {"init": "0" * 64}):
        with pytest.raises(ConfigError, match="starts from random weights"):
            replace(CONFIG, **changes)
    with pytest.raises(ConfigError, match="give kind segmentation to `train`"):
        Sweep(CONFIG, {"lr": [1e-3, 3e-3]}).fit(folder)
    Trainer(CONFIG).fit(folder).adaptor.save(tmp_path / "adaptor")
    with pytest.raises(ConfigError, match="reports judge classifiers"):
        report([tmp_path / "adaptor"], folder)
    with pytest.raises(ConfigError, match="classes are added to classifiers"):
        grow(Start.load(tmp_path / "adaptor"), folder)
