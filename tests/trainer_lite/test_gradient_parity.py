"""Every gradient against PyTorch autograd of the model written out with its residual stream."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_runtime import products  # noqa: E402
from edge_runtime.config import IGNORED  # noqa: E402
from tests.problems import config_of, problem_of, random_parameters, step_of  # noqa: E402
from tests.torch_reference import adaptor_logits, to_torch  # noqa: E402
from trainer_lite.optim import AdamW  # noqa: E402
from trainer_lite.parameters import ParameterSet  # noqa: E402
from trainer_lite.step import counted  # noqa: E402

CASES: dict[str, dict[str, Any]] = {
    "one block, mean": {"blocks": 1},
    "one block, cls": {"blocks": 1, "pool": "cls"},
    "cls and mean": {"blocks": 3, "pool": "cls+mean", "prefix_tokens": 2},
    "linear, cls and mean": {"kind": "linear", "pool": "cls+mean"},
    "two blocks": {},
    "two heads": {"heads": 2, "blocks": 3},
    "four heads, cls": {"heads": 4, "blocks": 3, "pool": "cls"},
    "six blocks, mean": {"blocks": 6},
    "six blocks, cls, two heads": {"blocks": 6, "pool": "cls", "heads": 2},
    "no prefix tokens": {"prefix_tokens": 0},
    "five prefix tokens": {"prefix_tokens": 5, "tokens": 14},
    "rank as wide as the features": {"rank": 24, "heads": 3},
    "rank 1": {"rank": 1, "blocks": 4},
    "linear, mean": {"kind": "linear"},
    "linear, cls": {"kind": "linear", "pool": "cls"},
    "segmentation": {"kind": "segmentation"},
    "segmentation, one block": {"kind": "segmentation", "blocks": 1},
    "segmentation, six blocks, two heads": {"kind": "segmentation", "blocks": 6, "heads": 2},
    "segmentation, five prefix tokens": {"kind": "segmentation", "prefix_tokens": 5, "tokens": 14},
    "segmentation, no prefix tokens": {"kind": "segmentation", "prefix_tokens": 0, "tokens": 9},
    "segmentation, linear": {"kind": "segmentation", "rank": 0, "blocks": 0},
}


@pytest.mark.parametrize(("tile", "whole"), [(2, False), (5, False), (32, False), (2, True)])
def test_tiles_change_nothing_at_full_size(
    tile: int, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ViT-B/16 shapes in float32: the loss and every gradient as with tiles of one image."""
    if whole:  # as where BLAS has no kernels for pieces
        monkeypatch.setattr(products, "IN_PIECES", False)
    config = config_of(tokens=197, embed_dim=768, rank=8, blocks=4, classes=100)
    problem = problem_of(config, 32, np.float32)
    found = []
    for images in (1, tile):
        step = step_of(random_parameters(config, np.float32), problem, batch=32, tile=images)
        loss, _ = step.run(np.arange(32), problem.labels)
        found.append((loss / 32, {name: g.copy() for name, g in step.gradients.items()}))
    (loss, expected), (other, gradients) = found
    assert other == pytest.approx(loss, abs=1e-5)
    for name, gradient in expected.items():
        assert relative_error(gradients[name], gradient) < 1e-5, name


def relative_error(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


@pytest.mark.parametrize("regularised", [False, True], ids=["plain", "drop-path and smoothing"])
@pytest.mark.parametrize("tile", [1, 3, 8])
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_autograd(case: str, tile: int, regularised: bool) -> None:
    config = config_of(**CASES[case])
    parameters = random_parameters(config, np.float64)
    problem = problem_of(config, 8, np.float64)
    smoothing, drop = (0.1, problem.drop) if regularised else (0.0, None)

    step = step_of(
        parameters,
        problem,
        batch=8,
        tile=tile,
        smoothing=smoothing,
        drop_path=0.3 if regularised else 0.0,
    )
    rows = np.arange(8)
    loss, correct = step.run(rows, problem.labels, drop)

    leaves = to_torch(parameters)
    drops = None if drop is None else torch.tensor(drop)
    logits = adaptor_logits(config, leaves, torch.tensor(problem.features), drops)
    expected = torch.nn.functional.cross_entropy(
        logits,
        torch.tensor(problem.labels.astype(np.int64)),
        label_smoothing=smoothing,
        ignore_index=IGNORED,
    )
    expected.backward()
    assert loss / counted(problem.labels) == pytest.approx(expected.item(), rel=1e-12)
    assert correct == int((logits.argmax(1).numpy() == problem.labels).sum())
    for name, leaf in leaves.items():
        assert relative_error(step.gradients[name], leaf.grad.numpy()) < 1e-10, name


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tile", [1, 3, 8])
def test_shares_of_pixels_are_trained_towards_as_in_pytorch(tile: int, smoothing: float) -> None:
    config = config_of(kind="segmentation", blocks=3)
    parameters, problem = random_parameters(config, np.float64), problem_of(config, 8, np.float64)
    masks = np.random.default_rng(0).choice([0, 1, 2, 4, IGNORED], (8, 12, 12)).astype(np.uint8)

    def read_masks(rows: Any, out: Any) -> None:
        out[...] = masks[rows]

    problem.mask_size, problem.read_masks = 12, read_masks  # type: ignore[attr-defined]
    step = step_of(parameters, problem, batch=8, tile=tile, smoothing=smoothing)
    loss, _ = step.run(np.arange(8), problem.labels)
    cells = masks.reshape(8, 3, 4, 3, 4).transpose(0, 1, 3, 2, 4).reshape(8, 9, 16)
    counts = np.stack([(cells == label).sum(axis=2) for label in range(5)], axis=1)
    known = torch.tensor(problem.labels != IGNORED)
    leaves = to_torch(parameters)
    logits = adaptor_logits(config, leaves, torch.tensor(problem.features))
    expected = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2)[known],
        torch.tensor(counts / counts.sum(axis=1, keepdims=True)).transpose(1, 2)[known],
        label_smoothing=smoothing,
    )
    expected.backward()
    assert loss / counted(problem.labels) == pytest.approx(expected.item(), rel=1e-12)
    for name, leaf in leaves.items():
        assert relative_error(step.gradients[name], leaf.grad.numpy()) < 1e-10, name


OUTLIERS: dict[str, Any] = {
    "none": lambda z: None,
    "tokens of a thousandfold norm": lambda z: z.__setitem__(np.s_[:, 3:5], z[:, 3:5] * 1000),
    "tokens of a thousandth": lambda z: z.__setitem__(np.s_[:, 3:5], z[:, 3:5] / 1000),
    "one channel of some tokens": lambda z: z.__setitem__(np.s_[:, ::3, 7], 3e4),
    "a token far off zero": lambda z: z.__setitem__(np.s_[:, 2], z[:, 2] + 1000),
}


@pytest.mark.parametrize("case", OUTLIERS)
def test_extreme_tokens_train_as_in_pytorch(case: str) -> None:
    """Twenty steps in float32 beside PyTorch's in float32, both against PyTorch's in float64."""
    config = config_of(tokens=30, embed_dim=48, rank=8, blocks=4, input_rms=6.0)
    problem = problem_of(config, 16, np.float32)
    OUTLIERS[case](problem.features)
    parameters = random_parameters(config, np.float32)
    exact, single = (torch_losses(config, parameters, problem, kind) for kind in ("f8", "f4"))
    found = our_losses(parameters, problem)
    assert all(math.isfinite(loss) for loss in found)
    ours, theirs = (max(abs(a - b) for a, b in zip(one, exact)) for one in (found, single))
    assert ours < max(4 * theirs, 1e-5), (ours, theirs)


def torch_losses(config: Any, parameters: Any, problem: Any, kind: str) -> list[float]:
    """Losses of twenty steps of PyTorch's AdamW."""
    leaves = to_torch({name: array.astype(kind) for name, array in parameters.items()})
    optimiser = torch.optim.AdamW(leaves.values(), lr=1e-3, weight_decay=0.0)
    z, labels, losses = torch.tensor(problem.features.astype(kind)), problem.labels, []
    for _ in range(20):
        optimiser.zero_grad()
        logits = adaptor_logits(config, leaves, z)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def our_losses(parameters: Any, problem: Any) -> list[float]:
    """The same of ours, in tiles."""
    made = ParameterSet(problem.config)
    for name, array in parameters.items():
        made.values[name][...] = array
    step = step_of(made.values, problem, batch=16, tile=4)
    optimiser = AdamW(made.flat, step.gradient, decayed=made.decayed, weight_decay=0.0)
    losses = []
    for _ in range(20):
        losses.append(step.run(np.arange(16), problem.labels)[0] / 16)
        optimiser.step(1e-3)
    return losses
