"""Cross-entropy: value and gradient by their definition."""

from __future__ import annotations

import numpy as np
import pytest

from trainer_lite.loss import cross_entropy, cross_entropy_gradient


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_value_and_gradient_by_definition(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((4, 5)) * 3, np.array([0, 4, 2, 2])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = np.full((4, 5), smoothing / 5)
    target[np.arange(4), labels] += 1 - smoothing
    gradient = np.empty_like(logits)
    cross_entropy_gradient(logits, labels, smoothing, 8, gradient)
    loss = cross_entropy(logits, labels, smoothing)
    assert loss == pytest.approx(-(target * np.log(probabilities)).sum(), rel=1e-12)
    np.testing.assert_allclose(gradient, (probabilities - target) / 8, atol=1e-15)


def test_huge_logits_stay_finite() -> None:
    logits = np.array([[1e4, -1e4, 0.0]], np.float32)
    gradient = np.empty_like(logits)
    cross_entropy_gradient(logits, np.array([1]), 0.0, 1, gradient)
    loss = cross_entropy(logits, np.array([1]), 0.0)
    assert loss == pytest.approx(2e4)
    np.testing.assert_allclose(gradient, [[1, -1, 0]], atol=1e-6)
