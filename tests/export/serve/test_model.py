"""What the server finds out about batches when it starts, and what it does with that."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.backbone import Backbone
from edge_runtime.errors import DataError
from export.serve.model import ServedModel
from tests.edge_runtime.tiny_backbone import SIZE

Array = np.ndarray[Any, Any]
TRUE_RUN = Backbone.run


def served(folder: Path, max_batch: int = 8) -> ServedModel:
    return ServedModel(Backbone.open(folder, 1), "tiny", max_batch)


def images(count: int) -> Array:
    return np.random.default_rng(0).integers(1, 256, (count, SIZE, SIZE, 3), np.uint8)


def spy(monkeypatch: pytest.MonkeyPatch, change: Any) -> list[int]:
    """Passes every batch's features through `change(features)`; returns the sizes of batches."""
    sizes: list[int] = []

    def run(self: Backbone, batch: Array, names: Any = None) -> Array:
        sizes.append(len(batch))
        features = TRUE_RUN(self, batch, names)
        change(features)
        return features

    monkeypatch.setattr(Backbone, "run", run)
    return sizes


def test_the_best_batch_is_tried_out_and_used(
    backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = {1: 0.1, 2: 0.04, 4: 0.4, 8: 0.8}  # two at a time are best
    sizes = spy(monkeypatch, lambda features: time.sleep(costs.get(len(features), 0.1)))
    model = served(backbone_folder)
    assert (model.trial.invariant, model.trial.best_batch) == (True, 2)
    sizes.clear()
    found = model.run(images(5))
    assert sizes == [2, 2, 1]
    assert np.array_equal(found, TRUE_RUN(model.backbone, images(5)))


def test_where_the_batch_shows_in_the_bits_nothing_is_split(
    backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(features: Array) -> None:
        features += np.float32(1e-3) * (len(features) > 2)

    sizes = spy(monkeypatch, change)
    model = served(backbone_folder)
    assert not model.trial.invariant
    assert not model.metadata()["parameters"]["batch_invariant"]
    sizes.clear()
    model.run(images(8))
    assert sizes == [8]


def test_a_backbone_that_noise_upsets_is_served_all_the_same(
    backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Backbone, batch: Array, names: Any = None) -> Array:
        raise DataError("NaN")

    monkeypatch.setattr(Backbone, "run", run)
    assert (served(backbone_folder).trial.invariant, served(backbone_folder).trial.best_batch) == (
        False,
        1,
    )


def test_an_error_names_the_image_of_the_request(backbone_folder: Path) -> None:
    model = served(backbone_folder)
    black = images(7)
    black[5] = 0  # this backbone divides by the largest value
    with pytest.raises(DataError, match="^image 5: "):
        model.run(black)
