"""Calibrates a board: times real training steps and inferences at a few shapes, and its limits."""

from __future__ import annotations

import math
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_runtime.codecs import CODECS
from edge_runtime.features import FeatureFolder
from edge_runtime.made_up import write_made_up
from edge_runtime.products import blas_name
from trainer_lite.board import Board, Sample, fit
from trainer_lite.build import StepShape
from trainer_lite.clocks import Measured
from trainer_lite.config import TrainConfig
from trainer_lite.data import PATCH, prepare
from trainer_lite.forecast import forecast
from trainer_lite.profiler import Profile, profile, step_seconds
from trainer_lite.rates import measure_rates
from trainer_lite.trainer import Trainer

STEPS = 11


@dataclass(frozen=True)
class Shape:
    """Features and adaptor of one calibration run."""

    tokens: int
    embed_dim: int
    rank: int = 8
    blocks: int = 2
    heads: int = 1
    classes: int = 10
    batch: int = 8
    codec: str = "float16"
    pool: str = "mean"
    kind: str = "attention"
    drop_path: float = 0.0


# Widths and token counts of the common backbones, ranks and heads around the defaults, every codec
# and pooling: each kind of operation is met at several sizes.
SHAPES = [
    Shape(17, 96, blocks=3, batch=16),
    Shape(50, 384, rank=4, codec="int8", classes=100),
    Shape(197, 192, blocks=3),
    Shape(197, 192, rank=16, heads=4, pool="cls", codec="int8"),
    Shape(197, 384, rank=4, codec="float32", drop_path=0.1),
    Shape(197, 384, rank=4, heads=4),
    Shape(197, 768, classes=100, codec="float32"),
    Shape(197, 768, rank=16, blocks=3, pool="cls", drop_path=0.1),
    Shape(257, 1024, blocks=3, codec="int8"),
    Shape(50, 192, kind="linear", codec="float32", batch=32),
    Shape(50, 384, codec="int4"),
    Shape(197, 192, blocks=1, codec="int4"),
    Shape(197, 768, kind="linear", classes=100, codec="float32"),
    Shape(257, 1024, kind="linear"),
    Shape(197, 192, blocks=3, kind="segmentation", classes=5),
    Shape(50, 768, kind="segmentation", classes=40, batch=16),
]

LANE_SHAPE = Shape(197, 384, blocks=4, batch=16)
RUN_SHAPE = Shape(17, 96, kind="linear")  # whose operations take next to nothing
RUN_BATCHES, RUN_IMAGES, RUN_EPOCHS = (8, 64), 512, 20


def calibrate(folder: Path, advance: Callable[[int, str], None]) -> Board:
    """Measures this machine; `folder` is on the storage that features will be read from."""
    rates = measure_rates(folder)
    advance(1, "rates")
    samples: dict[str, list[Sample]] = {}
    between: list[float] = []
    for shape in SHAPES:
        found = measure_shape(shape, folder)
        for stage in (found.training, found.inference):
            for measured in stage.operations:
                samples.setdefault(measured.operation.kind, []).append(sample(measured))
            runs = sum(measured.runs for measured in stage.operations)
            rest = stage.seconds - sum(measured.seconds for measured in stage.operations)
            between.append(rest / runs)
        advance(1, f"{shape.tokens} x {shape.embed_dim}")
    speedups = measure_speedups(folder)
    advance(1, "threads")
    board = Board(
        machine=machine(),
        rates=rates,
        kinds={kind: fit(found) for kind, found in sorted(samples.items())},
        between=max(0.0, statistics.median(between)),
        step=0.0,
        image=0.0,
        speedups=speedups,
    )
    step, image = measure_run(board, folder)
    return replace(board, step=step, image=image)


def measure_shape(shape: Shape, folder: Path) -> Profile:
    """Profiles a few steps on made-up features of that shape."""
    config = TrainConfig(
        batch_size=shape.batch,
        rank=shape.rank,
        blocks=shape.blocks,
        heads=shape.heads,
        pool=shape.pool,
        kind=shape.kind,
        drop_path=shape.drop_path,
    )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".calibrate-") as temporary:
        data = prepare(config, made_up(shape, Path(temporary), 2 * shape.batch))
        return profile(data.adaptor, config, data.source, STEPS)


def measure_speedups(folder: Path) -> dict[str, float]:
    """By how much tiles in 1, 2, 4 ... lanes, up to all cores, are faster than in one."""
    cores = core_count()
    counts = sorted({1, cores} | {1 << n for n in range(8) if 1 << n < cores})
    config = TrainConfig(batch_size=LANE_SHAPE.batch)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".calibrate-") as temporary:
        data = prepare(config, made_up(LANE_SHAPE, Path(temporary), 2 * LANE_SHAPE.batch))
        seconds = {n: step_seconds(data.adaptor, config, data.source, n, STEPS) for n in counts}
    return {str(n): seconds[1] / seconds[n] for n in counts}


def measure_run(board: Board, folder: Path) -> tuple[float, float]:
    """Seconds of a run beside its operations, as `board` tells them: a step, and an image."""
    steps, rest = [], []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".calibrate-") as temporary:
        features = made_up(RUN_SHAPE, Path(temporary), RUN_IMAGES)
        for batch in RUN_BATCHES:
            config = TrainConfig(kind=RUN_SHAPE.kind, batch_size=batch, epochs=RUN_EPOCHS)
            data = prepare(config, features)
            result = Trainer(config).fit(features)
            epoch = statistics.median(RUN_IMAGES / report.rate for report in result.history)
            shape = StepShape(batch, result.plan.tile_images)
            told = forecast(board, data.adaptor, data.source, None, shape).training
            steps.append(-(-RUN_IMAGES // batch))
            rest.append(epoch - told)
    step = max(0.0, (rest[0] - rest[1]) / (steps[0] - steps[1]))
    return step, max(0.0, (rest[1] - step * steps[1]) / RUN_IMAGES)


def made_up(shape: Shape, folder: Path, rows: int) -> FeatureFolder:
    """Features of that shape."""
    return write_made_up(
        folder,
        CODECS[shape.codec],
        rows=rows,
        tokens=shape.tokens,
        embed_dim=shape.embed_dim,
        classes=shape.classes,
        mask_size=PATCH * math.isqrt(shape.tokens - 1) if shape.kind == "segmentation" else 0,
    )


def sample(measured: Measured) -> Sample:
    """One run of an operation: its cost and its seconds."""
    return measured.cost.over(measured.runs), measured.seconds / measured.runs


def machine() -> dict[str, str | int]:
    """What this machine is, for people who read the file later."""
    sizes = {"page_bytes": os.sysconf("SC_PAGE_SIZE")}
    sizes["memory_bytes"] = sizes["page_bytes"] * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "cores": core_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": blas_name(),
        **sizes,
    }


def core_count() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Name of the processor or board, as Linux tells it."""
    for path in ("/proc/device-tree/model", "/proc/cpuinfo"):
        for line in lines_of(path):
            if path.endswith("cpuinfo") and not line.startswith(("model name", "Model")):
                continue
            return line.split(":", 1)[-1].strip(" \t\n\0")
    return platform.processor() or platform.machine()


def lines_of(path: str) -> Iterator[str]:
    """Lines of a file of the system; none where it is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            yield from file
    except OSError:
        return
