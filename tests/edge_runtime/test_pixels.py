"""From a grid's logits to pixels, against PyTorch's interpolate, and what is counted of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.config import IGNORED
from edge_runtime.masks import token_labels
from edge_runtime.metrics import PixelEvaluation
from edge_runtime.pixels import Pixels, bilinear
from edge_runtime.png import write_mask
from edge_runtime.program import Workspace
from tests.problems import config_of

CASES = [(1, 5), (2, 7), (3, 96), (14, 224), (7, 50), (5, 5), (6, 4)]


def pixels_of(side: int, size: int, classes: int = 5) -> Pixels:
    config = config_of(kind="segmentation", tokens=side * side + 1, classes=classes)
    return Pixels(config, size, Workspace(np.float64))


@pytest.mark.parametrize(("side", "size"), CASES)
def test_pixels_are_interpolated_as_in_pytorch(side: int, size: int) -> None:
    torch = pytest.importorskip("torch")
    grids = np.random.default_rng(side).standard_normal((5, side, side))
    expected = torch.nn.functional.interpolate(
        torch.tensor(grids)[None], size=(size, size), mode="bilinear", align_corners=False
    )[0].numpy()
    weights = bilinear(side, size)
    np.testing.assert_allclose(weights @ grids @ weights.T, expected, atol=1e-12)
    np.testing.assert_array_equal(pixels_of(side, size).mask(grids), expected.argmax(axis=0))


@pytest.mark.parametrize(("side", "size"), [(3, 96), (7, 50)])
def test_pixels_with_a_class_are_counted(side: int, size: int) -> None:
    rng = np.random.default_rng(0)
    pixels = pixels_of(side, size)
    expected = np.zeros((5, 5), int)
    for _ in range(3):
        grids = rng.standard_normal((5, side, side))
        truth = rng.choice([0, 1, 2, 4, IGNORED], (size, size)).astype(np.uint8)
        pixels.truth[...] = truth
        pixels.count(grids)
        predicted = pixels.mask(grids)
        for true, guess in zip(truth[truth != IGNORED], predicted[truth != IGNORED]):
            expected[true, guess] += 1
    np.testing.assert_array_equal(pixels.counts, expected)
    pixels.clear()
    assert not pixels.counts.any()


def test_of_equal_classes_the_first_wins() -> None:
    assert not pixels_of(3, 40).mask(np.zeros((5, 3, 3))).any()


def test_mean_iou_leaves_out_classes_that_are_nowhere() -> None:
    confusion = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0]])
    found = PixelEvaluation(confusion)
    assert found.per_class_iou == [6 / 11, 3 / 6, None, 0.0]
    assert found.score == found.mean_iou == pytest.approx((6 / 11 + 3 / 6) / 3)
    assert found.accuracy == 9 / 14


def test_a_patch_is_labelled_as_most_of_its_pixels() -> None:
    mask = np.zeros((1, 6, 6), np.uint8)
    mask[0, :3, :3] = 2
    mask[0, 0, :3] = 1  # 3 of 9
    mask[0, :3, 3:] = IGNORED
    mask[0, 0, 3:] = 1
    mask[0, 3:, :3] = [[1, 1, 1], [1, 3, 3], [3, 3, 0]]  # 4, 4, 1: the lower index
    assert token_labels(mask, 2).tolist() == [[2, IGNORED, 1, 0]]


def test_patches_that_do_not_divide_cover_every_pixel() -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (1, 7, 7)).astype(np.uint8)
    cells = [range(3), range(3, 5), range(5, 7)]
    expected: list[Any] = [
        np.bincount(mask[0][np.ix_(rows, columns)].ravel()).argmax()
        for rows in cells
        for columns in cells
    ]
    assert token_labels(mask, 3)[0].tolist() == expected


def test_masks_are_written_as_indexed_png(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    mask = np.random.default_rng(0).choice([0, 1, 7, 254], (5, 11)).astype(np.uint8)
    write_mask(tmp_path / "a.png", mask)
    with image.open(io.BytesIO((tmp_path / "a.png").read_bytes())) as found:
        assert found.mode == "P"
        np.testing.assert_array_equal(np.asarray(found), mask)
        colours = np.asarray(found.convert("RGB"))
    assert not colours[mask == 0].any()
    assert len({tuple(c) for c in colours.reshape(-1, 3).tolist()}) == 4
