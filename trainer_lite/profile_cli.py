"""`edgetune profile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edge_runtime.cli.common import PATH, emit_json, force_option, json_option, set_blas_threads
from trainer_lite.options import board_option, board_path, shape_options

if TYPE_CHECKING:
    from trainer_lite.profiler import Profile


WHOLE = click.IntRange(1)


@click.command()
@click.argument("path", metavar="ADAPTOR|FEATURES", type=PATH)
@shape_options
@click.option("--batch-size", default=32, show_default=True, type=WHOLE, help="Images a step.")
@click.option("--steps", default=20, show_default=True, type=WHOLE, help="Steps to measure.")
@click.option("--html", type=PATH, help="Write a page to look at: arena over time, roofline.")
@board_option
@force_option
@json_option
@click.pass_context
def profile(
    ctx: click.Context,
    /,
    path: Path,
    batch_size: int,
    steps: int,
    html: Path | None,
    board: Path | None,
    force: bool,
    as_json: bool,
    **shape: Any,
) -> None:
    """Where the time of training and of inference goes on this machine, operation by operation.

    Give FEATURES to read real ones, or an ADAPTOR to profile its shape on features made up. Nothing
    is trained for good and nothing is changed. "Of limit" compares with what this machine can do:
    its peak in matrix products, its caches' bandwidth, its rate of exp.

    \b
    Example:
      edgetune profile features --html profile.html
    """
    set_blas_threads()
    from edge_runtime.atomic import refuse_unwritable, write_file
    from trainer_lite.board import Board
    from trainer_lite.profile_page import page
    from trainer_lite.profile_table import as_object, as_table
    from trainer_lite.rates import measure_rates

    if html is not None:
        refuse_unwritable(html, force=force)
    where = board_path(board)
    rates = None if where is None else Board.load(where).rates
    given = [n for n in shape if ctx.get_parameter_source(n) is not ParameterSource.DEFAULT]
    found = profile_path(path, batch_size, steps, shape, given)
    if rates is None:
        rates = measure_rates(Path.cwd())
    content = as_object(found, rates)
    if html is not None:
        with write_file(html) as file:
            file.write(page(content).encode())
    if as_json:
        emit_json(content)
        return
    click.echo(as_table(content))
    if html is not None:
        click.echo(f"{html}: open it in a browser")


def profile_path(
    path: Path, batch_size: int, steps: int, shape: dict[str, Any], given: list[str]
) -> Profile:
    """Profiles training on a feature folder, or on features made up for an adaptor's shape."""
    import tempfile

    from edge_runtime.adaptor import Adaptor
    from edge_runtime.features import FeatureFolder
    from edge_runtime.made_up import write_made_up
    from trainer_lite.config import TrainConfig
    from trainer_lite.data import PATCH, prepare
    from trainer_lite.profiler import profile as measure

    if path.is_dir():
        config = TrainConfig(batch_size=batch_size, **shape)
        data = prepare(config, FeatureFolder.open(path))
        return measure(data.adaptor, config, data.source, steps)
    adaptor = Adaptor.load(path)
    if given:
        raise click.UsageError(
            f"--{given[0]} is the adaptor's own; give it with a feature folder instead"
        )
    with tempfile.TemporaryDirectory() as folder:
        features = write_made_up(
            Path(folder),
            adaptor.trained_codec,
            rows=batch_size,
            tokens=adaptor.config.tokens,
            embed_dim=adaptor.config.embed_dim,
            classes=adaptor.config.classes,
            prefix_tokens=adaptor.config.prefix_tokens,
            mask_size=PATCH * adaptor.config.grid_side if adaptor.config.dense else 0,
        )
        config = TrainConfig(batch_size=batch_size)
        return measure(adaptor.config, config, features.split("train"), steps)
