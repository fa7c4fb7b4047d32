"""`edgetune report`."""

from __future__ import annotations

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
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=PATH)
@click.option("--html", required=True, type=PATH, help="The page to write.")
@click.option("--features", type=PATH, help="Features to judge the runs on: test, or else val.")
@click.option("--images", type=PATH, help="The images they come from, for thumbnails.")
@click.option("--profile", type=PATH, help="What `edgetune profile RUN --json` printed.")
@force_option
@json_option
def report(
    runs: tuple[Path, ...],
    html: Path,
    features: Path | None,
    images: Path | None,
    profile: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """A page on one or several adaptors: curves, mistakes, memory, transfer, where they come from.

    RUN is an adaptor file that `edgetune train` wrote; its history is looked for beside it. The
    page is one file that needs no network. What it cannot show for want of a file, it says, and
    which command gives it.

    \b
    Examples:
      edgetune report adaptor.safetensors --html report.html
      edgetune report a.safetensors b.safetensors --features features --images photos --html r.html
    """
    set_blas_threads()
    if images is not None and features is None:
        raise click.UsageError("--images needs --features, which say which image is which")
    from edge_runtime.atomic import refuse_unwritable, write_file
    from edge_runtime.errors import ConfigError, DataError, require
    from edge_runtime.features import FeatureFolder
    from trainer_lite.report import report as gather
    from trainer_lite.report_page import page

    refuse_unwritable(html, force=force)
    if any(path.exists() and html.exists() and path.samefile(html) for path in runs):
        raise ConfigError(f"{html} is one of the runs; give another name for the page")
    if images is not None:
        if not images.is_dir():
            raise DataError(f"{images} is no folder; give the one that the features come from")
        require("PIL.Image", extra="vision")
    folder = None if features is None else FeatureFolder.open(features)
    with progress("reading", len(runs)) as advance:
        content = gather(runs, folder, profile, advance)
    thumbnails = None
    if images is not None:
        from trainer_lite.thumbnails import thumbnails_of

        thumbnails = thumbnails_of(images, content["runs"])
    with write_file(html) as file:
        file.write(page(content, thumbnails).encode("utf-8", "backslashreplace"))
    if as_json:
        emit_json({"html": str(html), **content})
    else:
        click.echo(f"{html}: open it in a browser ({html.stat().st_size:,} bytes)")
