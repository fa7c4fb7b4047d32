"""`edgetune plan`."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.common import PATH, emit_json, json_option, say, set_blas_threads
from trainer_lite.options import (
    board_option,
    board_path,
    checkpoint_option,
    configured,
    init_options,
    training_options,
)

if TYPE_CHECKING:
    from trainer_lite.budget import MemoryPlan, Planner
    from trainer_lite.build import StepShape
    from trainer_lite.data import TrainingData

SHOWN = 6  # buffers of the arena that the table lists
# What `train` has loaded when it plans: so it is in the baseline that is measured here, too.
HELD_BY_TRAIN = tuple(f"trainer_lite.{name}" for name in ("cli", "outputs", "reporter", "trainer"))


class Shape(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.2
    """TOKENSxDIM."""

    name = "tokensxdim"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", str(value))
        if match is None:
            self.fail(f"{value!r} is no shape; write tokens x dim, as 197x768", param)
        return int(match[1]), int(match[2])


@click.command()
@click.argument("features", type=PATH, required=False)
@click.option("--shape", type=Shape(), help="Features not extracted yet, as 197x768.")
@click.option("--classes", default=10, show_default=True, help="With --shape.")
@click.option(
    "--images",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Training images, with --shape.",
)
@click.option(
    "--codec",
    type=click.Choice(["float16", "float32", "int8", "int4"]),
    default="float16",
    show_default=True,
    help="With --shape.",
)
@training_options
@init_options
@checkpoint_option
@board_option
@json_option
def plan(
    features: Path | None,
    shape: tuple[int, int] | None,
    classes: int,
    images: int,
    codec: str,
    threads: int,
    memory_budget: int | None,
    init: Path | None,
    checkpoint: Path | None,
    board: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """What training on FEATURES would take: bytes, part by part, and MACs; it trains nothing.

    With --memory-budget, exits with 1 where the budget cannot be kept, and says the least that
    can. The options of `edgetune train` may be given; they change the plan as they change the run.
    With --checkpoint, a copy of the best epoch is counted, which such a run keeps.
    With a calibration (`edgetune calibrate`), of this machine or of another, an epoch's seconds
    are predicted as well.

    \b
    Examples:
      edgetune plan features --memory-budget 48MiB
      edgetune plan --shape 197x768 --classes 100 --rank 16
      edgetune plan features --init adaptor.safetensors --head-only
    """
    if (features is None) == (shape is None):
        raise click.UsageError("give FEATURES, a folder that `edgetune extract` wrote, or --shape")
    if init is not None and features is None:
        raise click.UsageError("--init is planned with FEATURES, whose classes it is trained on")
    set_blas_threads()
    from edge_runtime.codecs import CODECS
    from edge_runtime.features import FeatureFolder
    from trainer_lite.budget import Planner, choose_tile
    from trainer_lite.data import prepare, prepare_shape

    for module in HELD_BY_TRAIN:
        import_module(module)
    config, start = configured(init, options)
    if features is not None:
        data = prepare(config, FeatureFolder.open(features), start)
    else:
        data = prepare_shape(config, CODECS[codec], *(shape or (0, 0)), classes, images)
    planner = Planner(
        data.adaptor,
        config,
        data.source,
        data.evaluated,
        keep_best=checkpoint is not None and data.val is not None,
        threads=threads,
        elsewhere=True,
    )
    least = planner.plan(1).budget_bytes
    chosen = choose_tile(planner, memory_budget)
    steps = -(-len(data.source.labels) // config.batch_size)
    content = as_object(chosen, planner, least, steps, memory_budget)
    where = board_path(board)
    if where is not None:
        planned = planner.shape(chosen.tile_images, chosen.lanes)
        content.update(predicted_time(where, data, planned, explicit=board is not None))
    if as_json:
        emit_json(content)
    else:
        click.echo(as_table(content))


def predicted_time(
    path: Path, data: TrainingData, shape: StepShape, *, explicit: bool
) -> dict[str, Any]:
    """Seconds of an epoch on a calibrated board; nothing where board.json only happens to lie here
    and is of another version."""
    from edge_runtime.errors import FormatError
    from trainer_lite.board import Board
    from trainer_lite.forecast import forecast

    try:
        board = Board.load(path)
        found = forecast(board, data.adaptor, data.source, data.val, shape)
    except FormatError as error:
        if explicit:
            raise
        say(f"no time is predicted: {error}")
        return {}
    return {
        "predicted_epoch_seconds": found.epoch,
        "predicted_training_seconds": found.training,
        "predicted_validation_seconds": found.validation,
        "board": board.machine,
    }


def as_object(
    chosen: MemoryPlan, planner: Planner, least: int, steps: int, budget: int | None
) -> dict[str, Any]:
    """The plan for machines; buffers of the arena, the largest first, with their lifetimes."""
    layout = chosen.step.layout
    return {
        "tile_images": chosen.tile_images,
        "lanes": chosen.lanes,
        "loading_bytes": chosen.loading_bytes,
        "baseline_bytes": chosen.baseline_bytes,
        "blas_bytes": chosen.blas_bytes,
        "parameter_bytes": chosen.parameter_bytes,
        "weights_bytes": chosen.weights_bytes,
        "arena_bytes": chosen.arena_bytes,
        "object_bytes": chosen.object_bytes,
        "predicted_peak_rss_bytes": chosen.predicted_peak_rss_bytes,
        "memory_budget_bytes": budget,
        "address_space_bytes": chosen.address_space_bytes,
        "data_segment_bytes": chosen.data_segment_bytes,
        "least_budget_bytes": least,
        "parameters": planner.adaptor.parameter_count(),
        "steps_per_epoch": steps,
        "macs_per_step": chosen.step.macs,
        "flops_per_step": chosen.flops_per_step,
        "macs_per_epoch": chosen.step.macs * steps,
        "flops_per_epoch": chosen.flops_per_step * steps,
        "arena_buffers": [
            {
                "name": buffer.name,
                "bytes": buffer.nbytes,
                "offset_bytes": layout.offsets[buffer.name],
                "first_operation": buffer.first,
                "last_operation": buffer.last,
            }
            for buffer in sorted(layout.lifetimes, key=lambda b: (-b.nbytes, b.name))
        ],
    }


def tiles_of(content: dict[str, Any]) -> str:
    """The tiles of a plan, in words."""
    tile, lanes = content["tile_images"], content["lanes"]
    images = "1 image" if tile == 1 else f"{tile} images"
    return f"{lanes} tiles of {images}" if lanes > 1 else f"a tile of {images}"


def as_table(content: dict[str, Any]) -> str:
    """The plan for people."""
    steps, budget = content["steps_per_epoch"], content["memory_budget_bytes"]

    def line(name: str, nbytes: int, note: str = "") -> str:
        return f"{name:34}{nbytes / 2**20:9.2f} MiB  {note}".rstrip()

    trained = f"{content['parameters']} trainable, {len(content['arena_buffers'])} buffers planned"
    lines = [
        line("loading, at its peak", content["loading_bytes"], "measured here"),
        line("process before training", content["baseline_bytes"], "measured here"),
        line("BLAS work space", content["blas_bytes"], "measured here"),
        line("parameters and optimiser", content["parameter_bytes"], trained),
        line("fused weights", content["weights_bytes"]),
        line("arena", content["arena_bytes"], tiles_of(content)),
    ]
    lines += [line(f"  {b['name']}", b["bytes"]) for b in content["arena_buffers"][:SHOWN]]
    lines += [
        line("Python objects, code", content["object_bytes"], "estimated"),
        line("predicted peak RSS", content["predicted_peak_rss_bytes"]),
        line("least budget", content["least_budget_bytes"], "a tile of 1 image"),
        line("address space", content["address_space_bytes"], "ulimit -v"),
        line("data segment", content["data_segment_bytes"], "ulimit -d"),
    ]
    if budget is not None:
        lines.append(line("memory budget", budget, "kept"))
    for name, count in (("step", 1), (f"epoch ({steps} steps)", steps)):
        macs = content["macs_per_step"] * count
        lines.append(f"{name:34}{macs / 1e9:9.3f} GMACs  {2 * macs / 1e9:.3f} GFLOPs")
    if "predicted_epoch_seconds" in content:
        training, validation = (
            content[f"predicted_{part}_seconds"] for part in ("training", "validation")
        )
        lines.append(
            f"{'predicted time of an epoch':34}{training + validation:9.2f} s    "
            f"training {training:.2f}, validation {validation:.2f}; as calibrated on "
            f"{content['board']['processor']}"
        )
    return "\n".join(lines)
