"""An adaptor's configuration: every refusal, and what follows from the shape."""

from __future__ import annotations

from typing import Any

import pytest

from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import ConfigError
from tests.problems import config_of, random_parameters

REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"kind": "mlp"}, "kind must be one of attention, linear, segmentation, not 'mlp'"),
    "pool": ({"pool": "max"}, "pool must be one of mean, cls, cls.mean, not 'max'"),
    "no tokens": ({"tokens": 0, "prefix_tokens": 0}, "at least one patch token is needed"),
    "only prefix tokens": ({"tokens": 3, "prefix_tokens": 3}, "at least one patch token"),
    "negative prefix": ({"prefix_tokens": -1}, "cannot be trained on"),
    "no width": ({"embed_dim": 0}, "cannot be trained on"),
    "one class": ({"classes": 1}, "at least two classes are needed, not 1"),
    "cls without prefix": ({"pool": "cls", "prefix_tokens": 0}, "use --pool mean"),
    "no rank": ({"rank": 0}, "must each be at least 1"),
    "no blocks": ({"blocks": 0}, "must each be at least 1"),
    "no heads": ({"heads": 0}, "must each be at least 1"),
    "negative heads": ({"heads": -2}, "must each be at least 1"),
    "rank above width": ({"rank": 25}, "rank 25 is above the feature width 24; use --rank 24"),
    "heads do not divide": ({"rank": 4, "heads": 3}, "rank 4 does not divide into 3 heads"),
    "eps 0": ({"norm_eps": 0.0}, "norm_eps must be from 1e-12 to 1, not 0.0"),
    "eps large": ({"norm_eps": 1e300}, "norm_eps must be from"),
    "eps NaN": ({"norm_eps": float("nan")}, "norm_eps must be from 1e-12 to 1, not nan"),
    "rms negative": ({"input_rms": -1.0}, "input_rms must be from"),
    "rms infinite": ({"input_rms": float("inf")}, "input_rms must be from"),
    "rms tiny": ({"input_rms": 1e-300}, "input_rms must be from"),
    "rms no float": ({"input_rms": 10**400}, "input_rms must be from"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_no_adaptor_can_have_is_refused(case: str) -> None:
    changes, message = REFUSALS[case]
    with pytest.raises(ConfigError, match=message):
        config_of(**changes)


def test_a_linear_probe_has_no_blocks() -> None:
    entries = {**config_of(kind="linear").to_json(), "blocks": 1, "rank": 4}
    with pytest.raises(ConfigError, match="kind linear has no blocks"):
        AdaptorConfig(**entries)


@pytest.mark.parametrize("changes", [{}, {"kind": "linear"}, {"pool": "cls", "heads": 2}])
def test_json_gives_the_same_configuration(changes: dict[str, Any]) -> None:
    config = config_of(**changes)
    assert AdaptorConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 4.0}, "'rank' has the wrong type"),
        ({"rank": True}, "'rank' has the wrong type"),
        ({"norm_eps": "1e-6"}, "'norm_eps' has the wrong type"),
        ({"kind": None}, "'kind' has the wrong type"),
        ({"dropout": 0.1}, "are not those of an adaptor"),
        ({"classes": 1}, "at least two classes"),
    ],
)
def test_odd_json_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AdaptorConfig.from_json({**config_of().to_json(), **changes})


def test_missing_json_is_refused() -> None:
    content = config_of().to_json()
    del content["heads"]
    with pytest.raises(ConfigError, match="are not those of an adaptor"):
        AdaptorConfig.from_json(content)


def test_shapes_follow_the_formula() -> None:
    config = config_of(rank=6, blocks=3, heads=2)
    assert config.parameter_shapes() == {
        "blocks.qkv": (3, 18, 24),
        "blocks.out": (3, 6, 24),
        "head.weight": (5, 24),
        "blocks.norm_weight": (3, 24),
        "blocks.norm_bias": (3, 24),
        "head.norm_weight": (24,),
        "head.norm_bias": (24,),
        "head.bias": (5,),
    }
    parameters = random_parameters(config, "float32")
    assert config.parameter_count() == sum(a.size for a in parameters.values())
    assert (config.head_rank, config.product_rows) == (3, 4 * 6 * 3 - 6)


def test_a_linear_probe_has_the_head_alone() -> None:
    config = config_of(kind="linear")
    assert all(name.startswith("head.") for name in config.parameter_shapes())
    assert (config.parameter_count(), config.product_rows) == (5 * 24 + 24 + 24 + 5, 0)


@pytest.mark.parametrize(("pool", "expected"), [("mean", [9]), ("cls", [1]), ("cls+mean", [1, 9])])
def test_pooling_leaves_prefix_tokens_out(pool: str, expected: list[int]) -> None:
    assert [len(tokens) for tokens in config_of(pool=pool).pools] == expected
