"""The grid, the rounds, and what members are ranked by."""

from __future__ import annotations

import pytest

from edge_runtime.errors import ConfigError
from trainer_lite.config import TrainConfig
from trainer_lite.halving import Round, grid, rounds, score
from trainer_lite.member import names_of
from trainer_lite.reports import EpochReport


def test_a_grid_is_every_combination() -> None:
    found = grid(TrainConfig(epochs=7), {"lr": [1e-3, 3e-3], "rank": [4, 8], "seed": [5]})
    assert [(c.lr, c.rank, c.seed, c.epochs) for c in found] == [
        (1e-3, 4, 5, 7),
        (1e-3, 8, 5, 7),
        (3e-3, 4, 5, 7),
        (3e-3, 8, 5, 7),
    ]
    assert names_of(found)[1] == "lr 0.001, rank 8"
    assert names_of(found[:1]) == ["lr 0.001"]
    with pytest.raises(ConfigError, match="rank is given the same value twice: 4, 4"):
        grid(TrainConfig(), {"rank": [4, 4]})
    with pytest.raises(ConfigError, match="leave --rank out"):
        grid(TrainConfig(kind="linear"), {"rank": [4, 8]})


@pytest.mark.parametrize(
    ("members", "epochs", "expected"),
    [
        (8, 40, [(10, 4), (20, 2), (30, 1), (40, 1)]),
        (5, 40, [(10, 3), (20, 2), (30, 1), (40, 1)]),
        (2, 10, [(5, 1), (10, 1)]),
        (1, 10, [(10, 1)]),
        (8, 3, [(1, 2), (2, 1), (3, 1)]),  # two halvings after the same epoch are one
        (8, 1, [(1, 8)]),  # nothing to halve by
    ],
)
def test_rounds(members: int, epochs: int, expected: list[tuple[int, int]]) -> None:
    assert rounds(members, epochs) == [Round(*one) for one in expected]
    assert rounds(members, epochs, halving=False) == [Round(epochs, members)]


def test_members_are_ranked_by_their_best_epoch_then_the_last_then_the_loss() -> None:
    def history(loss: float, *val: float) -> list[EpochReport]:
        return [EpochReport(i, loss, 0.5, accuracy, 1.0) for i, accuracy in enumerate(val, 1)]

    ranked = [
        history(9.0, 0.3, 0.9, 0.4),
        history(9.0, 0.8, 0.8, 0.8),
        history(0.1, 0.8, 0.8, 0.7),
        history(0.2, 0.8, 0.8, 0.7),
    ]
    assert sorted([*ranked[1:], ranked[0]], key=score, reverse=True) == ranked
