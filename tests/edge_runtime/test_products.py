"""Products in pieces: what comes out, and what is handed to np.matmul."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import products
from edge_runtime.program import Program

sizes = st.one_of(st.integers(1, 40), st.integers(100, 800))


def arrays(m: int, k: int, n: int, turned: tuple[bool, bool]) -> list[Any]:
    """x, y and a poisoned out; `turned` are columns of memory where the others are rows."""
    draw = np.random.default_rng(m + k + n)
    x, y = (
        draw.standard_normal(shape[::-1] if turn else shape).astype(np.float32)
        for shape, turn in zip(((m, k), (k, n)), turned)
    )
    out = np.full((m, n), np.nan, np.float32)
    return [x.T if turned[0] else x, y.T if turned[1] else y, out]


@pytest.fixture(scope="module", autouse=True)
def in_pieces() -> Iterator[None]:
    """As where it is faster, on any machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "IN_PIECES", True)
        yield


@given(sizes, sizes, sizes, st.booleans(), st.booleans())
def test_pieces_are_the_whole_product(
    m: int, k: int, n: int, turned_x: bool, turned_y: bool
) -> None:
    x, y, out = arrays(m, k, n, (turned_x, turned_y))
    for piece in products.pieces(x, y, out) or [(x, y, out)]:
        np.matmul(*piece)
    assert np.allclose(out, x.astype(np.float64) @ y, rtol=1e-4, atol=1e-3)


@given(sizes, sizes, sizes, st.booleans(), st.booleans())
def test_each_piece_is_small_enough_and_all_are_the_macs_of_the_product(
    m: int, k: int, n: int, turned_x: bool, turned_y: bool
) -> None:
    found = products.pieces(*arrays(m, k, n, (turned_x, turned_y)))
    macs = sum(out.size * x.shape[-1] for x, _, out in found)
    assert macs == (m * n * k if found else 0)
    for x, y, out in found:
        (rows, length), columns = x.shape[-2:], y.shape[-1]
        assert out.shape[-2:] == (rows, columns)
        assert rows * length * columns <= products.SMALL_MACS
        if turned_y and not turned_x:
            assert rows * columns <= products.SMALL_DOTS


def test_the_products_of_vit_b_features_are_cut() -> None:
    x, z, out = arrays(120, 768, 394, (False, True))
    first, rest = products.pieces(x, z, out)
    assert first[2].shape == (1, 49, 120, 8) and rest[2].shape == (1, 1, 120, 2)
    (backward,) = products.pieces(*arrays(120, 394, 768, (False, False)))
    assert backward[2].shape == (1, 48, 120, 16)


@pytest.mark.parametrize(
    ("shape", "turned"),
    [
        ((8, 394, 16), True),
        ((120, 20_000, 768), True),
        ((120, 16, 394), True),
        ((122, 768, 394), True),  # rows that would be summed in other orders
        ((120, 394, 1024), False),  # rows 4096 bytes apart
        ((120, 6304, 768), False),
    ],
)
def test_what_no_cut_makes_faster_is_left_alone(shape: tuple[int, int, int], turned: bool) -> None:
    assert products.pieces(*arrays(*shape, (False, turned))) == []


@pytest.mark.parametrize("in_pieces", [True, False])
def test_a_program_computes_the_same_either_way(
    in_pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "IN_PIECES", in_pieces)
    x, y, out = arrays(120, 394, 770, (False, False))
    program = Program()
    products.emit_product(program, x, y, out)
    program.run()
    assert len(program.operations) == (2 if in_pieces else 1)
    assert np.allclose(out, x @ y, atol=1e-3)


@pytest.mark.parametrize("rows", [28, 120, 148])
@pytest.mark.parametrize("tokens", [197, 200, 393, 985])
def test_no_token_depends_on_those_it_comes_with(tokens: int, rows: int) -> None:
    """Not to a bit: also the last, of a tile that pieces do not divide."""
    x, z, out = arrays(rows, 768, tokens, (False, True))
    alone = np.empty((rows, 197), np.float32)
    for array, part in ((out, z), (alone, z[:, -197:])):
        for piece in products.pieces(x, part, array):
            np.matmul(*piece)
    assert np.array_equal(out[:, -197:], alone)
