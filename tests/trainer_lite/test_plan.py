"""Layouts: no two live buffers overlap, and little room is wasted."""

from __future__ import annotations

import pytest

from tests.layouts import live_peak
from trainer_lite.plan import ALIGNMENT, Layout, Lifetime, aligned, plan_layout

hypothesis = pytest.importorskip("hypothesis")
strategies = hypothesis.strategies


def check(layout: Layout) -> None:
    """What every layout must be, whatever it looks like."""
    buffers = layout.lifetimes
    assert set(layout.offsets) == {buffer.name for buffer in buffers}
    for buffer in buffers:
        start = layout.offsets[buffer.name]
        assert start % ALIGNMENT == 0
        assert 0 <= start <= start + buffer.nbytes <= layout.nbytes
        for other in buffers:
            if other is buffer or not buffer.meets(other) or not other.nbytes or not buffer.nbytes:
                continue
            begin = layout.offsets[other.name]
            assert start + buffer.nbytes <= begin or begin + other.nbytes <= start, (buffer, other)
    assert layout.nbytes >= live_peak(buffers)


@strategies.composite
def buffer_lists(draw: hypothesis.strategies.DrawFn) -> list[Lifetime]:
    count = draw(strategies.integers(0, 24))
    buffers = []
    for index in range(count):
        first = draw(strategies.integers(0, 12))
        last = first + draw(strategies.integers(0, 12))
        size = draw(strategies.sampled_from([0, 1, 63, 64, 65, 1000, 4096, 100_000]))
        buffers.append(Lifetime(f"b{index}", size, first, last))
    return buffers


@hypothesis.given(buffer_lists())
@hypothesis.settings(max_examples=300, deadline=None)
def test_live_buffers_never_overlap(buffers: list[Lifetime]) -> None:
    check(plan_layout(buffers))


@hypothesis.given(buffer_lists())
@hypothesis.settings(max_examples=50, deadline=None)
def test_the_order_of_declaration_does_not_matter(buffers: list[Lifetime]) -> None:
    assert plan_layout(buffers).offsets == plan_layout(buffers[::-1]).offsets


def test_identical_lifetimes_lie_apart() -> None:
    layout = plan_layout([Lifetime("a", 100, 2, 5), Lifetime("b", 100, 2, 5)])
    check(layout)
    assert layout.offsets["a"] != layout.offsets["b"]


def test_touching_lifetimes_lie_apart_and_following_ones_share() -> None:
    touching = plan_layout([Lifetime("a", 100, 0, 3), Lifetime("b", 100, 3, 5)])
    assert touching.nbytes == 2 * aligned(100)
    following = plan_layout([Lifetime("a", 100, 0, 3), Lifetime("b", 100, 4, 5)])
    assert following.nbytes == aligned(100)


def test_nothing_and_empty_buffers_take_no_room() -> None:
    assert plan_layout([]).nbytes == 0
    assert plan_layout([Lifetime("a", 0, 0, 9), Lifetime("b", 0, 0, 9)]).nbytes == 0


def test_a_gap_is_filled_from_below() -> None:
    buffers = [
        Lifetime("long", 640, 0, 9),
        Lifetime("early", 320, 0, 4),
        Lifetime("late", 256, 5, 9),
    ]
    layout = plan_layout(buffers)
    check(layout)
    assert layout.nbytes == live_peak(buffers) == 960
