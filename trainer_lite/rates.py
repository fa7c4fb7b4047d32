"""How fast this machine multiplies, moves and reads: the limits that a profile is held against."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import ops
from edge_runtime.flops import Cost
from edge_runtime.products import emit_product
from edge_runtime.program import Program
from trainer_lite.clocks import Operation, median_seconds

STORAGE_BYTES = 16 << 20
EXP_PASSES: int = ops.exp_scores.passes  # type: ignore[attr-defined]
# (images, m, k, n) of products as a step of ViT-B/16 features has them, tile of 2, rank 8.
PRODUCTS = {
    "features_forward": (1, 394, 768, 120),
    "features_backward": (1, 120, 394, 768),
    "attention_scores": (2, 197, 8, 197),
    "attention_values": (2, 9, 197, 197),
    "square": (1, 512, 512, 512),
}


def measure_rates(folder: Path) -> dict[str, float]:
    """Rates in FLOP/s, bytes/s and entries/s by name; `folder` is where storage is read from."""
    rates = {f"{name}_flops": product_flops(*shape) for name, shape in PRODUCTS.items()}
    rates["cache_bytes"] = copy_bytes(128 << 10)
    rates["memory_bytes"] = copy_bytes(16 << 20)
    rates["exp_entries"] = exp_entries(78_000)
    rates["small_calls"] = calls()
    rates["storage_bytes"] = storage_bytes(folder)
    return rates


def peak_flops(rates: Mapping[str, float]) -> float:
    """FLOP/s of the fastest matrix product measured."""
    return max(rate for name, rate in rates.items() if name.endswith("_flops"))


def limit(operation: Operation, cost: Cost, rates: Mapping[str, float]) -> float:
    """Least seconds that `cost` can take: at peak FLOP/s, the caches' bandwidth, exp's rate."""
    seconds = max(cost.flops / peak_flops(rates), cost.bytes / rates["cache_bytes"])
    if "exp_scores" in operation.name:
        seconds = max(seconds, cost.flops / EXP_PASSES / rates["exp_entries"])
    return seconds


def product_flops(images: int, m: int, k: int, n: int) -> float:
    """FLOP/s of a matrix product, (m, k) times (k, n), for so many images."""
    a, b = np.ones((images, m, k), np.float32), np.ones((images, k, n), np.float32)
    out = np.empty((images, m, n), np.float32)
    program = Program()
    if images == 1:
        emit_product(program, a[0], b[0], out[0])
    else:
        program.emit(np.matmul, a, b, out)
    return 2.0 * images * m * k * n / quick(program.run)


def copy_bytes(nbytes: int) -> float:
    """Bytes a second, read and written, of copying so many bytes."""
    source, out = np.zeros(nbytes // 4, np.float32), np.ones(nbytes // 4, np.float32)
    return 2.0 * nbytes / quick(lambda: np.copyto(out, source))


def exp_entries(entries: int) -> float:
    """exp's float32 results a second."""
    x, out = np.full(entries, -0.5, np.float32), np.empty(entries, np.float32)
    return entries / quick(lambda: np.exp(x, out))


def calls() -> float:
    """Calls a second of an operation that has next to nothing to do."""
    x = np.ones(8, np.float32)

    def hundred() -> None:
        for _ in range(100):
            np.multiply(x, x, x)

    return 100 / quick(hundred)


def storage_bytes(folder: Path) -> float:
    """Bytes a second that a file of `folder` is read at, with nothing of it in memory.

    A fresh file is written and its pages are dropped, where the system can be asked to.
    """
    piece = np.arange(1 << 18, dtype=np.uint32).tobytes()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".calibrate-") as file:
        for _ in range(STORAGE_BYTES // len(piece)):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        with contextlib.suppress(AttributeError, OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        buffer = bytearray(len(piece))
        with open(file.name, "rb", buffering=0) as reader:
            started = time.perf_counter()
            while reader.readinto(buffer):
                pass
            return STORAGE_BYTES / (time.perf_counter() - started)


def quick(function: Callable[[], Any]) -> float:
    """Median seconds of a call, over about a twentieth of a second."""
    function()
    once = max(median_seconds(function, 3), 1e-7)
    return max(median_seconds(function, min(200, max(5, int(0.05 / once)))), 1e-9)
