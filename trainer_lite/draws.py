"""Random numbers for training: Python's Mersenne Twister, without the module around it.

`random` brings distributions and hashes, a quarter of a megabyte that a training process does
without; `_random` is the generator alone.
"""

from __future__ import annotations

import zlib
from _random import Random
from collections.abc import Callable
from typing import Any


def draws(purpose: str) -> Callable[[], float]:
    """Uniform numbers from 0 to below 1, the same for the same purpose, such as `order 0 1`."""
    draw: Callable[[], float] = Random(zlib.crc32(purpose.encode())).random
    return draw


def shuffle(items: Any, draw: Callable[[], float]) -> None:
    """Fisher and Yates, in place."""
    for last in range(len(items) - 1, 0, -1):
        other = int(draw() * (last + 1))
        items[last], items[other] = items[other], items[last]
