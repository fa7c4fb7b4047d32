"""Products in pieces: what comes out, and what is handed to np.matmul."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edge_runtime import products
from edge_runtime.program import Program


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


SHAPES = [
    (120, 768, 394),
    (248, 768, 394),
    (120, 394, 768),
    (101, 40, 700),
    (1, 3, 2),
    (24, 800, 9),
]
TURNED = [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize("turned", TURNED)
@pytest.mark.parametrize("shape", SHAPES)
def test_pieces_are_the_whole_product(
    shape: tuple[int, int, int], turned: tuple[bool, bool]
) -> None:
    check_pieces(*shape, turned)


def test_pieces_of_any_product_are_that_product() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    sizes = st.one_of(st.integers(1, 40), st.integers(100, 800))

    @hypothesis.settings(deadline=None)
    @hypothesis.given(sizes, sizes, sizes, st.sampled_from(TURNED))
    def check(m: int, k: int, n: int, turned: tuple[bool, bool]) -> None:
        check_pieces(m, k, n, turned)

    check()


def check_pieces(m: int, k: int, n: int, turned: tuple[bool, bool]) -> None:
    """Together they are the product and its MACs, and each is small enough."""
    x, y, out = arrays(m, k, n, turned)
    found = products.pieces(x, y, out)
    for piece in found or [(x, y, out)]:
        np.matmul(*piece)
    assert np.allclose(out, x.astype(np.float64) @ y, rtol=1e-4, atol=1e-3)
    macs = sum(part.size * left.shape[-1] for left, _, part in found)
    assert macs == (m * n * k if found else 0)
    for left, right, part in found:
        (rows, length), columns = left.shape[-2:], right.shape[-1]
        assert part.shape[-2:] == (rows, columns)
        assert rows * length * columns <= products.SMALL_MACS
        if turned == (False, True):
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


@pytest.mark.skipif(not products.IN_PIECES, reason="of OpenBLAS's kernels for AVX-512")
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
