"""AdamW and its schedule, by their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from trainer_lite.optim import CHUNK, AdamW
from trainer_lite.schedule import learning_rate


def test_one_step_by_hand() -> None:
    parameters = np.array([1.0, -2.0])
    gradient = np.array([0.5, -0.1])
    optimiser = AdamW(parameters, gradient, decayed=1, weight_decay=0.1)
    optimiser.step(0.01)
    # The first bias-corrected step is the sign of the gradient; only entry 0 decays.
    expected = [1.0 * (1 - 0.01 * 0.1) - 0.01, -2.0 + 0.01]
    np.testing.assert_allclose(parameters, expected, rtol=1e-6)


def test_equals_the_textbook_over_many_steps_and_chunks() -> None:
    rng = np.random.default_rng(0)
    size = 2 * CHUNK + 7
    parameters, gradient = rng.standard_normal(size), np.zeros(size)
    expected, first, second = parameters.copy(), np.zeros(size), np.zeros(size)
    optimiser = AdamW(parameters, gradient, decayed=100, weight_decay=0.05)
    for step in range(1, 6):
        gradient[:] = rng.standard_normal(size)
        rate = 0.01 / step
        optimiser.step(rate)
        expected[:100] -= rate * 0.05 * expected[:100]
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        expected -= rate * first / (1 - 0.9**step) / unbiased
    np.testing.assert_allclose(parameters, expected, rtol=1e-10)


def test_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    rates = [learning_rate(step, 100, 2.0, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == pytest.approx(2.0)
    assert rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0)
    assert rates[99] < 0.01
    assert all(a >= b for a, b in zip(rates[10:], rates[11:]))


def test_rate_without_warm_up_and_of_one_step() -> None:
    assert learning_rate(0, 1, 3.0, 0.0) == 3.0
    assert learning_rate(0, 10, 3.0, 1.0) == pytest.approx(0.3)


def test_moments_without_a_gradient_never_become_denormal() -> None:
    parameters, gradient = np.ones(3, np.float32), np.array([1e-3, 0, 1e-14], np.float32)
    optimiser = AdamW(parameters, gradient, decayed=0, weight_decay=0.0)
    optimiser.first[:2], optimiser.second[:2] = 1e-3, 1e-29
    least = np.finfo(np.float32).tiny
    for _ in range(8_000):
        optimiser.step(1e-3)
        for moment in (optimiser.first, optimiser.second):
            assert not ((moment != 0) & (np.abs(moment) < least)).any()
    assert optimiser.first[1] == optimiser.second[1] == 0
    assert optimiser.first[0] == pytest.approx(1e-3, rel=1e-3)
    assert optimiser.second[0] == pytest.approx(1e-6, rel=1e-2)
