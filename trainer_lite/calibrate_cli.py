"""`edgetune calibrate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from edge_runtime.cli.common import (
    PATH,
    emit_json,
    force_option,
    json_option,
    progress,
    set_blas_threads,
)


@click.command()
@click.option(
    "--out", default="board.json", show_default=True, type=PATH, help="The file to write."
)
@click.option(
    "--storage", type=PATH, help="A folder where features will lie. [default: the folder of OUT]"
)
@force_option
@json_option
def calibrate(out: Path, storage: Path | None, force: bool, as_json: bool) -> None:
    """Measure how fast this machine is; takes seconds.

    OUT then lets `edgetune plan` say how long an epoch will take here, on this machine or on
    another, and `edgetune profile` how near to its limits each operation comes.

    \b
    Example:
      edgetune calibrate --out board.json
    """
    set_blas_threads()
    from edge_runtime.atomic import refuse_unwritable
    from edge_runtime.errors import ConfigError
    from trainer_lite.calibration import SHAPES
    from trainer_lite.calibration import calibrate as measure

    refuse_unwritable(out, force=force)
    folder = storage or out.resolve().parent
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; give one where features will lie to --storage")
    with progress("calibrating", 2 + len(SHAPES)) as advance:
        board = measure(folder, advance)
    board.save(out)
    if as_json:
        emit_json({"board": str(out), **dataclasses.asdict(board)})
        return
    machine, rates = board.machine, board.rates
    click.echo(f"{'processor':28}{machine['processor']}, {machine['cores']} cores")
    click.echo(f"{'numpy':28}{machine['numpy']}, {machine['blas']}")
    memory = machine["memory_bytes"] / 2**30
    click.echo(f"{'memory':28}{memory:.1f} GiB, pages of {machine['page_bytes']} bytes")
    for name, rate in rates.items():
        what, unit = name.rsplit("_", 1)
        shown = f"{rate / 1e6:10.2f} M/s" if unit in ("calls", "entries") else ""
        click.echo(f"{what.replace('_', ' '):28}{shown or f'{rate / 1e9:10.2f} G{UNITS[unit]}'}")
    speedups = ", ".join(f"{by:.2f} with {lanes}" for lanes, by in board.speedups.items())
    click.echo(f"{'tiles side by side':28}{speedups}")
    click.echo(f"{out}: {len(board.kinds)} kinds of operation")


UNITS = {"flops": "FLOP/s", "bytes": "B/s"}
