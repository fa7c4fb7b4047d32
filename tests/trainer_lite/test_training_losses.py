"""Ten steps of AdamW against the figures that PyTorch gave (golden.json), in both precisions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer_lite.golden import CONFIGS, expected, golden_run


@pytest.mark.parametrize("tile", [1, 4, 6])
@pytest.mark.parametrize("name", CONFIGS)
def test_float64_reproduces_the_golden_run(name: str, tile: int) -> None:
    losses, first = golden_run(name, np.float64, tile)
    assert losses == pytest.approx(expected(name)[0], rel=1e-8)
    for parameter, (total, norm) in expected(name)[1].items():
        gradient = first[parameter]
        assert math.sqrt((gradient**2).sum()) == pytest.approx(norm, rel=1e-9), parameter
        assert gradient.sum() == pytest.approx(total, rel=1e-8, abs=1e-9 * norm), parameter


@pytest.mark.parametrize("tile", [1, 4, 6])
@pytest.mark.parametrize("name", CONFIGS)
def test_float32_losses_stay_within_1e_4(name: str, tile: int) -> None:
    losses, _ = golden_run(name, np.float32, tile)
    assert losses == pytest.approx(expected(name)[0], abs=1e-4)


def test_the_golden_run_learns() -> None:
    for name in CONFIGS:
        losses, _ = expected(name)
        assert losses[-1] < 0.7 * losses[0]
