"""Every reader on its seeds, on what fuzzing once found, cut off anywhere and altered at random."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytest.importorskip("PIL")
pytest.importorskip("starlette")

from tests.fuzz.__main__ import NAMES
from tests.fuzz.targets import TARGETS, survive

FINDINGS = Path(__file__).with_name("findings")
MUTATIONS = 200


def altered(data: bytes, rng: random.Random) -> bytes:
    """A few bits flipped, or a piece removed, repeated or overwritten."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        at, size = rng.randrange(len(out)), rng.randint(1, 8)
        kind = rng.randrange(4)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at : at + size]
        elif kind == 2:
            out[at:at] = out[at : at + size]
        else:
            out[at : at + size] = rng.choice([b"\xff", b"\0", b"9", b"[", b'"']) * size
    return bytes(out)


def test_the_command_knows_every_target() -> None:
    assert set(NAMES) == set(TARGETS)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_read(name: str) -> None:
    """At least one seed of each is no error, or the fuzzer would start from nothing."""
    target, sound = TARGETS[name], 0
    for seed in target.seeds():
        try:
            target.run(seed)
            sound += 1
        except Exception:
            survive(target, seed)
    assert sound


@pytest.mark.parametrize("name", NAMES)
def test_no_input_ends_in_anything_but_an_edge_error(name: str) -> None:
    target, rng = TARGETS[name], random.Random(name)
    seeds = target.seeds()
    for path in sorted((FINDINGS / name).glob("*")):
        survive(target, path.read_bytes())
    for seed in seeds:
        for end in {rng.randrange(len(seed)) for _ in range(40)} | {0, 1, len(seed) - 1}:
            survive(target, seed[:end])
    for _ in range(MUTATIONS):
        survive(target, altered(rng.choice(seeds), rng))
