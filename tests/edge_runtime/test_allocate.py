"""Memory that is given back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What is resident once a hundred blocks are freed below one that stays.
FREED = """
import sys
from edge_runtime.allocate import map_large_blocks
from edge_runtime.memory import rss_bytes
if sys.argv[1] == "mapped":
    map_large_blocks()
del (block := bytearray(20 << 20))[:]  # glibc takes note
del block
before = rss_bytes()
blocks = [bytearray(b"x") * 200_000 for _ in range(100)]
stays = bytearray(2000)
del blocks
print(rss_bytes() - before)
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="needs glibc")
def test_large_blocks_are_given_back_when_freed() -> None:
    kept = {}
    for how in ("mapped", "as it is"):
        done = subprocess.run(
            [sys.executable, "-c", FREED, how], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        kept[how] = int(done.stdout)
    assert kept["mapped"] < 2 << 20 < 15 << 20 < kept["as it is"]
