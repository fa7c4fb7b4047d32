"""Options that `train`, `plan` and others share, and what they are turned into."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.common import PATH

if TYPE_CHECKING:
    from trainer_lite.config import TrainConfig
    from trainer_lite.start import Start

UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9}
SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}
UNITS.update({"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30})


class Interval(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.2
    """So many steps, as 200, or a time, as 30s, 10min or 2h: (steps, seconds), one of them None."""

    name = "steps|time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | None, float | None]:
        match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([a-z]*)\s*", str(value))
        unit = None if match is None or not match[2] else SECONDS.get(match[2])
        if match is None or float(match[1]) == 0 or (match[2] and unit is None):
            self.fail(f"{value!r} is no interval; write steps, as 200, or 30s, 10min, 2h", param)
        if unit is not None:
            return None, float(match[1]) * unit
        if not match[1].isdigit():
            self.fail(f"{value!r} is no number of steps; write 200, or a time as 30s", param)
        return int(match[1]), None


class Size(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.2
    """Bytes, as 50331648, 48MiB or 48M."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*", str(value))
        if match is None or match[2].lower() not in UNITS:
            self.fail(f"{value!r} is no size; write bytes, or a number with KiB, MiB, GiB", param)
        return int(float(match[1]) * UNITS[match[2].lower()])


class Values(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.2
    """Numbers with commas between them, as 1e-3,3e-3."""

    name = "values"

    def __init__(self, kind: Callable[[str], Any]):
        self.kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[Any]:
        try:
            return [self.kind(part) for part in str(value).split(",")]
        except ValueError:
            what = "whole numbers" if self.kind is int else "numbers"
            self.fail(f"{value!r}: write {what} with commas between them", param)


RANK = click.option("--rank", default=8, show_default=True, help="Rank of each block's attention.")
RATE = click.option(
    "--lr",
    type=float,
    help="Peak learning rate. [default: 1.92 / width, 1e-2 at 192; with --init 0.576 / width]",
)
DECAY = click.option("--weight-decay", default=1.0, show_default=True, help="On matrices only.")
SEED = click.option(
    "--seed", default=0, show_default=True, help="Of start values, order and drop-path."
)
# The same options of a sweep, which takes several values of them.
SEVERAL = {
    RANK: click.option(
        "--rank", type=Values(int), default="8", show_default=True, help="Ranks to try."
    ),
    RATE: click.option(
        "--lr", type=Values(float), help="Peak learning rates to try. [default: as train's]"
    ),
    DECAY: click.option(
        "--weight-decay", type=Values(float), default="1", show_default=True, help="To try."
    ),
    SEED: click.option(
        "--seed",
        type=Values(int),
        default="0",
        show_default=True,
        help="Seeds to try; those of one seed share what they read.",
    ),
}

OPTIONS = [
    RANK,
    click.option(
        "--blocks",
        default=4,
        show_default=True,
        help="Low-rank attention blocks. 0 with --kind segmentation: its linear probe.",
    ),
    click.option("--heads", default=1, show_default=True, help="Heads; rank must divide by it."),
    click.option(
        "--pool",
        type=click.Choice(["mean", "cls", "cls+mean"]),
        help="What the head sees: the mean of the patch tokens, the class token, or both. "
        "[default: cls+mean; without a class token mean]",
    ),
    click.option(
        "--kind",
        type=click.Choice(["attention", "linear", "segmentation"]),
        default="attention",
        show_default=True,
        help="The adaptor, or a linear probe on the same features; segmentation: an adaptor with a "
        "class for every patch token, on features with masks.",
    ),
    click.option("--epochs", default=40, show_default=True, help="Passes over the images."),
    click.option("--batch-size", default=32, show_default=True, help="Images a step."),
    RATE,
    DECAY,
    click.option(
        "--warmup", default=0.1, show_default=True, help="Fraction of steps that warm up."
    ),
    click.option(
        "--fit-on",
        type=click.Choice(["train", "train+val"]),
        default="train",
        show_default=True,
        help="train+val leaves nothing to validate on.",
    ),
    click.option(
        "--label-smoothing", default=0.0, show_default=True, help="0 to below 1; 0 is none."
    ),
    click.option("--drop-path", default=0.0, show_default=True, help="Chance to drop a block."),
    click.option(
        "--clip-norm", type=float, help="Longest gradient; longer ones are scaled. [default: none]"
    ),
    SEED,
    click.option(
        "--memory-budget",
        type=Size(),
        help="Bytes the whole process may take (peak RSS), e.g. 48MiB; refused if it cannot.",
    ),
    click.option(
        "--threads",
        default=1,
        show_default=True,
        type=click.IntRange(1, 64),
        help="Tiles that run side by side, as far as the memory budget allows.",
    ),
]


SHAPE_OPTIONS = OPTIONS[:5]  # those that say what an adaptor is


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a training run to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def sweep_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """As `training_options`, with several values of some."""
    for option in reversed(OPTIONS):
        command = SEVERAL.get(option, option)(command)
    return command


def shape_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say what an adaptor is."""
    for option in reversed(SHAPE_OPTIONS):
        command = option(command)
    return command


checkpoint_option = click.option(
    "--checkpoint", type=PATH, help="A folder to keep the run's state in, so that it can go on."
)
every_option = click.option(
    "--every",
    type=Interval(),
    help="Steps, or a time (30s, 10min), from checkpoint to checkpoint. "
    "[default: a minute; longer where that would cost over 2 % of the time]",
)


def init_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a run that starts from an adaptor."""
    command = click.option(
        "--balance",
        is_flag=True,
        help="Show images of rarer classes more often: every class as often as the largest.",
    )(command)
    command = click.option(
        "--head-only", is_flag=True, help="Train the head alone; all else stays as --init has it."
    )(command)
    return click.option(
        "--init", type=PATH, help="An adaptor to start from, in place of random weights."
    )(command)


def given_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's options that somebody gave; the others are at their defaults."""
    default = click.core.ParameterSource.DEFAULT
    source = click.get_current_context().get_parameter_source
    return {name: value for name, value in options.items() if source(name) is not default}


def configured(init: Path | None, options: dict[str, Any]) -> tuple[TrainConfig, Start | None]:
    """A run's options, and the adaptor that it starts from, where there is one."""
    from trainer_lite.config import TrainConfig

    if options["head_only"] and init is None:
        raise click.UsageError("--head-only needs --init, the adaptor whose other weights stay")
    if init is None:
        return TrainConfig(**options), None
    from trainer_lite.start import Start

    start = Start.load(init)
    return start.config(**given_options(options)), start


resume_option = click.option(
    "--resume", is_flag=True, help="Go on from the --checkpoint folder, if it holds a run."
)

board_option = click.option(
    "--board",
    type=PATH,
    help="What `edgetune calibrate` wrote. [default: board.json, if it is there]",
)


def board_path(given: Path | None) -> Path | None:
    """The calibration to use: the one given, or board.json of the current folder if it is there."""
    default = Path("board.json")
    return given or (default if default.exists() else None)
