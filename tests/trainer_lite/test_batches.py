"""Batches: every row once an epoch, in an order that the seed and the epoch decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.sources import ArrayFeatures
from trainer_lite.batches import Joined, drop_path_factors, epoch_batches, with_next

Array = np.ndarray[Any, Any]


def order(rows: int = 50, batch: int = 8, seed: int = 3, epoch: int = 1) -> list[int]:
    return [int(row) for part in epoch_batches(rows, batch, seed, epoch) for row in part]


@pytest.mark.parametrize(("rows", "batch"), [(50, 8), (48, 8), (5, 5), (5, 1), (1, 1)])
def test_an_epoch_sees_every_row_once(rows: int, batch: int) -> None:
    parts = list(epoch_batches(rows, batch, 0, 1))
    assert [len(part) for part in parts[:-1]] == [batch] * (len(parts) - 1)
    assert 1 <= len(parts[-1]) <= batch
    assert sorted(np.concatenate(parts)) == list(range(rows))


def test_the_order_is_shuffled_and_reproducible() -> None:
    assert order() == order()
    assert order() != sorted(order())
    assert order(batch=5) == order()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [order(seed=seed, epoch=epoch) for seed in (0, 1, 10, -1) for epoch in (1, 2, 11)]
    assert len({tuple(one) for one in orders}) == len(orders)


def test_an_order_never_changes() -> None:
    assert order(rows=10, seed=0) == [7, 1, 8, 4, 3, 0, 6, 9, 2, 5]


def test_drop_path_keeps_the_mean() -> None:
    factors = drop_path_factors(0.25, 100, 100, seed=0, step=0)
    assert factors.shape == (100, 100) and factors.dtype == np.float32
    np.testing.assert_array_equal(np.unique(factors), np.array([0, 1 / 0.75], np.float32))
    assert factors.mean() == pytest.approx(1, abs=0.02)


def test_drop_path_differs_by_step_and_is_reproducible() -> None:
    first = drop_path_factors(0.5, 4, 16, seed=1, step=0)
    np.testing.assert_array_equal(first, drop_path_factors(0.5, 4, 16, seed=1, step=0))
    assert (first != drop_path_factors(0.5, 4, 16, seed=1, step=1)).any()
    assert (first != drop_path_factors(0.5, 4, 16, seed=2, step=0)).any()


def test_no_blocks_have_no_factors() -> None:
    assert drop_path_factors(0.5, 0, 16, seed=0, step=0).shape == (0, 16)


def test_joined_sources_read_as_one() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((9, 3, 4)).astype(np.float32)
    labels = np.arange(9)
    parts = [slice(0, 4), slice(4, 5), slice(5, 9)]
    joined = Joined([ArrayFeatures(values[part], labels[part]) for part in parts])
    whole = ArrayFeatures(values, labels)
    np.testing.assert_array_equal(joined.labels, labels)
    assert (joined.tokens, joined.embed_dim) == (3, 4)
    rows = rng.permutation(9)
    found, expected = (np.empty((9, 3, 4), np.float32) for _ in range(2))
    found_norms, expected_norms = (np.empty((9, 3), np.float32) for _ in range(2))
    scratch = np.empty(joined.scratch_bytes(len(rows)), np.uint8)
    joined.read(rows, found, found_norms, scratch)
    whole.read(rows, expected, expected_norms, scratch)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found_norms, expected_norms)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_each_batch_comes_with_the_next(count: int) -> None:
    batches = [np.array([index]) for index in range(count)]
    found = list(with_next(batches))
    assert [int(rows[0]) for rows, _ in found] == list(range(count))
    assert [None if n is None else int(n[0]) for _, n in found] == [*range(1, count), None][:count]


def test_joined_sources_announce_rows_to_their_owners() -> None:
    announced: list[tuple[str, int]] = []

    def source(name: str, rows: int) -> Any:
        made = ArrayFeatures(np.ones((rows, 2, 3), np.float32))
        made.prefetch = lambda rows: announced.append((name, int(rows[0])))  # type: ignore[attr-defined]
        return made

    Joined([source("train", 4), source("val", 3)]).prefetch(np.array([5, 0, 3]))
    assert announced == [("val", 1), ("train", 0), ("train", 3)]
