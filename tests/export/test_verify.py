"""float16 never overflows, and an export that is not faithful does not pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_runtime import formats
from edge_runtime.errors import ExportError
from export import preprocessing, verify
from export.backbone import build
from export.models import Loaded
from export.tap_sum import TapSum, choose_scale
from export.taps import find_taps
from tests.export.conftest import MODEL


def test_scale() -> None:
    assert choose_scale(1e9, half=False) == 1
    assert choose_scale(8187.9, half=True) == 1
    assert choose_scale(8188.0, half=True) == 2
    assert choose_scale(1e6, half=True) == 128
    for bad in (np.inf, np.nan):
        with pytest.raises(ExportError, match="not finite"):
            choose_scale(bad, half=True)


def test_huge_features_in_float16(create: Callable[..., Any], tmp_path: Path) -> None:
    model = create(MODEL)
    model.pos_embed.mul_(1e6)
    manifest = build(Loaded(model, MODEL, "random", None, 160), tmp_path, 1, "float16")
    scale = manifest["output"]["scale"]
    assert scale > 1
    assert np.log2(scale) % 1 == 0
    data = (tmp_path / "backbone.onnx").read_bytes()
    raw = verify.run_onnx(data, 1.0, verify.sample_images(160))
    assert max(float(np.abs(z).max()) for z in raw) < 65504 / 7.9
    assert manifest["verified"]["torch"]["max_relative"] <= 2**-11 + 1e-6


def test_clip_without_a_scale(create: Callable[..., Any]) -> None:
    model = create(MODEL)
    model.pos_embed.mul_(1e9)
    how = preprocessing.resolve(model, 160)
    module = TapSum(model, find_taps(MODEL, model, 160), 2, how)
    module.half = True
    features = module(verify.sample_images(160)[0])
    assert features.dtype == torch.float16
    assert features.isfinite().all()
    assert features.abs().max() == 65504


def test_unfaithful_graphs_are_refused(whole: Path, create: Callable[..., Any]) -> None:
    model = create(MODEL)
    how, taps = preprocessing.resolve(model, 160), find_taps(MODEL, model, 160)
    batches = verify.sample_images(160)[:1]
    by_hand = verify.sums_by_hand(model, taps, 6, how, batches)
    module = TapSum(model, taps, 6, how)
    data = (whole / "backbone.onnx").read_bytes()
    assert verify.verify(data, module, batches, by_hand)["batch_sizes"] == [1]
    with pytest.raises(ExportError, match="differs from timm's forward_intermediates by"):
        verify.verify(data, module, batches, [by_hand[0] * np.float32(1.002)])
    with pytest.raises(ExportError, match="differs from timm's forward_intermediates by"):
        verify.check_sum(module, batches, [by_hand[0] + np.float32(0.1)])
    model.blocks[0].mlp.fc1.bias.add_(0.1)
    with pytest.raises(ExportError, match="differs from torch by"):
        verify.verify(data, module, batches, by_hand)


def test_a_wrong_channel_beside_an_outlier() -> None:
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((2, 5, 8)).astype(np.float32)
    expected[:, :, 0] *= 1e5
    found = expected.copy()
    found[:, :, 3] = 0
    errors = verify.compare([found], [expected])
    assert errors.max_relative < verify.LIMIT
    assert errors.rms_relative > 0.5
    assert verify.compare([expected], [expected]).to_json() == {
        "max_relative": 0.0,
        "rms_relative": 0.0,
    }
    found[0, 0, 0] = np.inf
    assert verify.compare([found], [expected]).max_relative == np.inf


def test_images_are_unlike_and_the_same_each_time() -> None:
    first, second = (verify.sample_images(56) for _ in range(2))
    assert [tuple(batch.shape) for batch in first] == [(n, 56, 56, 3) for n in (1, 2, 5)]
    images = torch.cat(first)
    assert torch.equal(images, torch.cat(second))
    assert images.dtype == torch.uint8
    assert len({formats.identity(image.tolist()) for image in images}) == 8


def test_damaged_weights_are_refused(create: Callable[..., Any], tmp_path: Path) -> None:
    model = create(MODEL)
    model.blocks[1].mlp.fc1.bias[0] = float("nan")
    with pytest.raises(ExportError, match="the sum of the taps is not finite"):
        build(Loaded(model, MODEL, "random", None, 160), tmp_path, None, "float16")
