"""Several adaptors on one feature: each answers as it does alone; the features are read once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime import products
from edge_runtime.adaptor import Adaptor
from edge_runtime.errors import DataError, MismatchError
from edge_runtime.sources import ArrayFeatures
from edge_runtime.together import Together
from tests.problems import config_of, problem_of, random_parameters

SHAPES: list[dict[str, Any]] = [
    {},
    {"rank": 6, "heads": 3, "pool": "cls+mean", "input_rms": 1.3, "classes": 3},
    {"kind": "linear"},
    {"blocks": 3, "norm_eps": 1e-4},
    {"kind": "segmentation", "blocks": 3},
    {"kind": "segmentation", "rank": 0, "blocks": 0},
]


def adaptor_of(seed: int, **changes: Any) -> Adaptor:
    config = config_of(**changes)
    names = [str(index) for index in range(config.classes)]
    return Adaptor(config, random_parameters(config, np.float32, seed), names, {})


class Reading(ArrayFeatures):
    """Counts the rows that are read."""

    rows_read = 0

    def read(self, rows: Any, z: Any, norms: Any, scratch: Any) -> None:
        self.rows_read += len(rows)
        super().read(rows, z, norms, scratch)


@pytest.mark.parametrize(
    "order", [(0, 1, 2, 3), (2, 3), (3, 2, 1, 0), (2, 2), (1,), (4, 0, 5), (5,)]
)
def test_each_answers_as_it_does_alone(order: tuple[int, ...]) -> None:
    features = problem_of(config_of(), 47, np.float32).features  # a whole tile, and a part of one
    adaptors = [adaptor_of(place, **SHAPES[index]) for place, index in enumerate(order)]
    source = Reading(features)
    together = Together(adaptors)
    found = together.predict(source)
    assert source.rows_read == 47
    for adaptor, probabilities in zip(adaptors, found):
        ask = adaptor.predict_logits if adaptor.config.dense else adaptor.predict_proba
        expected = ask(features)
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    for again, before in zip(together.predict(features[:3]), found):
        np.testing.assert_allclose(again, before[:3], atol=1e-5)


@pytest.mark.parametrize("in_pieces", [True, False])
def test_one_product_reads_the_features_for_all(
    in_pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "IN_PIECES", in_pieces)
    wide = {"embed_dim": 40}
    features = problem_of(config_of(**wide), 2, np.float32).features
    adaptors = [adaptor_of(seed, **SHAPES[shape], **wide) for seed, shape in ((0, 0), (1, 3))]
    together = Together(adaptors)
    found = together.predict(features)
    assert together._predictor is not None
    operations = together._predictor.tile.operations
    products_of_z = [a for f, a in operations if f is np.matmul and a[0].shape[-1] == 40]
    outs = [a[2] for a in products_of_z if a[2].shape != (40, 5)]  # those are of the heads
    if in_pieces:
        assert [out.shape for out in outs] == [(1, 50, 72, 8)]
    else:
        assert [out.shape for out in outs] == [(400, 28 + 44)]
    for adaptor, probabilities in zip(adaptors, found):
        monkeypatch.setattr(products, "IN_PIECES", not in_pieces)
        alone = adaptor.predict_proba(features)
        np.testing.assert_allclose(probabilities, alone, atol=1e-5)


def test_another_shape_or_weights_beyond_float32_are_refused() -> None:
    features = problem_of(config_of(), 2, np.float32).features
    with pytest.raises(MismatchError, match="takes features of 11 tokens x 24"):
        Together([adaptor_of(0), adaptor_of(1, tokens=11)]).predict(features)
    bad = adaptor_of(1)
    bad.parameters["blocks.qkv"] *= np.float32(1e30)
    with pytest.raises(DataError, match="not finite"):
        Together([adaptor_of(0), bad]).predict(features)
