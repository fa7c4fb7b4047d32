"""What follows from the features where an option is not given."""

from __future__ import annotations

import pytest

from edge_runtime.errors import ConfigError
from trainer_lite.config import TrainConfig


@pytest.mark.parametrize(
    ("width", "options", "rate"),
    [
        (192, {}, 1e-2),
        (768, {}, 2.5e-3),
        (768, {"kind": "linear"}, 2.5e-3),
        (192, {"init": "0" * 64}, 3e-3),
        (8, {}, 0.02),
        (192, {"lr": 0.5}, 0.5),
    ],
)
def test_rate_follows_from_the_width(width: int, options: dict[str, object], rate: float) -> None:
    config = TrainConfig(**options)  # type: ignore[arg-type]
    assert config.settled(width, 1).rate == pytest.approx(rate)


@pytest.mark.parametrize(
    ("prefix_tokens", "options", "pool"),
    [
        (1, {}, "cls+mean"),
        (0, {}, "mean"),
        (1, {"kind": "segmentation"}, "mean"),
        (1, {"pool": "cls"}, "cls"),
        (0, {"pool": "cls"}, "cls"),  # refused where the adaptor is made, not changed
    ],
)
def test_pool_follows_from_the_prefix(
    prefix_tokens: int, options: dict[str, object], pool: str
) -> None:
    config = TrainConfig(**options)  # type: ignore[arg-type]
    assert config.settled(192, prefix_tokens).pool == pool


def test_settled_once_is_settled() -> None:
    config = TrainConfig().settled(192, 1)
    assert config.settled(768, 0) == config


def test_no_rate_before_it_is_settled() -> None:
    with pytest.raises(ConfigError, match="settled"):
        TrainConfig().rate  # noqa: B018
