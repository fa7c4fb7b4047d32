"""Memory for arrays, mapped for themselves.

malloc keeps what it once handed out, and hands it out again in pieces: how much of it is resident
depends on what went before. A mapping is resident as far as it was written to, and gone when freed,
so that what a run takes can be told before it starts.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from typing import Any

import numpy as np

from edge_runtime.errors import BudgetError

Array = np.ndarray[Any, Any]

LEAST = 1 << 16  # bytes; smaller arrays are malloc's
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def allocate(nbytes: int) -> Array:
    """So many zero bytes, page-aligned.

    Pages count as they are first written, and one by one: huge pages would round memory up.

    Raises:
        BudgetError: the system gives no more.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        mapped = mmap.mmap(-1, max(nbytes, mmap.PAGESIZE), flags=flags)
    except OSError:
        raise BudgetError(
            f"no room for {nbytes} bytes more: a limit on this process (ulimit -v, -d) or the "
            f"machine's memory is reached; edgetune plan says what a run needs"
        ) from None
    with contextlib.suppress(AttributeError, OSError):
        mapped.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(mapped, np.uint8)[:nbytes]


def map_large_blocks() -> None:
    """Has glibc map every large block for itself, for a process that runs on.

    It does so by itself until the first such block is freed, and from then on keeps room for as
    much: on a process that predicts ViT-B/16 features, 1.8 MB. Other C libraries are left alone.
    """
    import ctypes

    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LEAST)


def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """As np.zeros; large arrays are mapped."""
    kind = np.dtype(dtype)
    nbytes = math.prod(shape) * kind.itemsize
    if nbytes < LEAST:
        return np.zeros(shape, kind)
    return allocate(nbytes).view(kind).reshape(shape)
