"""What decides the bits of a run: a resumed run must agree in all of it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_runtime import __version__, formats, ops
from edge_runtime.features import FeatureFolder
from trainer_lite.config import TrainConfig

Facts = dict[str, Any]

PROBE = (96, 80)  # rows and columns: neither is a multiple of every vector's width


def facts_of_run(
    config: TrainConfig, threads: int, tile: int | None, features: FeatureFolder
) -> Facts:
    """By name: options, features, versions, and what computes here. No value is a list."""
    import platform  # a tenth of a megabyte, for runs that are saved

    listed = {k: v for k, v in features.manifest.items() if k != "versions"}
    return {
        **config.to_json(),
        "threads": threads,
        "tile": tile,
        "features": features.identity,
        "CRC-32 of the features' manifest": zlib.crc32(formats.canonical(listed)),
        "edgetune": __version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "exponential": ops.POWER.__name__,
        "BLAS threads": os.environ.get("OPENBLAS_NUM_THREADS", "not set"),
        "kernels of numpy and BLAS": kernels(),
    }


def facts_of_sweep(
    configs: Sequence[TrainConfig], halving: bool, threads: int, features: FeatureFolder
) -> Facts:
    """Those of a sweep: of its first run, and which runs there are."""
    members = [config.to_json() for config in configs]
    return {
        **facts_of_run(configs[0], threads, None, features),
        "runs": len(configs),
        "CRC-32 of the runs' options": zlib.crc32(formats.canonical(members)),
        "halving": halving,
    }


def kernels() -> int:
    """A number that differs where numpy or BLAS round differently: CRC-32 of what they compute.

    Both choose kernels by the processor, and by variables such as OPENBLAS_CORETYPE.
    """
    x = np.sin(np.arange(PROBE[0] * PROBE[1], dtype=np.float32)).reshape(PROBE)
    product = np.matmul(x, x.T)
    rows = np.add.reduce(product, 1)
    crc = 0
    for part in (x, product, rows, ops.POWER(x), np.exp(x), np.sqrt(np.abs(rows)), x @ x[0]):
        crc = zlib.crc32(part.tobytes(), crc)
    return crc


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs, in words; empty where nothing does."""
    names = [*now, *(name for name in then if name not in now)]
    return "; ".join(
        f"{name} was {short(then.get(name))}, is {short(now.get(name))}"
        for name in names
        if then.get(name) != now.get(name)
    )


def short(value: Any) -> str:
    """A value in a message; of an identity its start."""
    text = "not given" if value is None else str(value)
    return text if len(text) <= 24 else text[:12]
