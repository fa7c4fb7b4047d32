"""`edgetune extract`: a folder of images into a folder of features."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edge_runtime.cli.common import PATH, emit_json, force_option, json_option, progress, say


@click.command(short_help="Run a folder of images through a backbone.")
@click.argument("images", type=PATH)
@click.option("--backbone", required=True, type=PATH, help="Folder that `edgetune export` wrote.")
@click.option("--out", required=True, type=PATH, help="Feature folder to write.")
@click.option(
    "--codec",
    type=click.Choice(["float16", "float32", "int8"]),
    default="float16",
    show_default=True,
    help="How features are stored: 2, 4 or 1 bytes a value.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Images that go through the backbone together.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads of onnxruntime.  [default: all processors]",
)
@click.option("--strict", is_flag=True, help="Stop at an unreadable image instead of skipping it.")
@force_option
@json_option
def extract(
    images: Path,
    backbone: Path,
    out: Path,
    codec: str,
    batch_size: int,
    threads: int | None,
    strict: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Run IMAGES through a backbone and keep its features.

    IMAGES holds one folder for each class, or train/, val/ and test/ with these inside (val and
    test may be missing). The features are all that `edgetune train` needs: copy their folder to
    the device.

    An interrupted command, repeated, goes on where it stopped; until it is done, everything lies
    in OUT.partial. Unreadable images are named, skipped and counted. --force also discards an
    OUT.partial that was begun with other settings.

    \b
    Example:
      edgetune extract photos --backbone backbone --out features
    """
    from edge_runtime.atomic import partial_path
    from edge_runtime.backbone import Backbone
    from edge_runtime.codecs import CODECS
    from edge_runtime.extract import extract as run
    from edge_runtime.image_folder import scan

    opened = Backbone.open(backbone, threads)
    folder = scan(images)
    total = sum(map(len, folder.splits.values()))
    erase = "\r\x1b[K" if sys.stderr.isatty() else ""  # the bar is drawn again after the message
    try:
        with progress("extract", total) as advance:
            result = run(
                folder,
                opened,
                out,
                CODECS[codec],
                batch_size=batch_size,
                force=force,
                strict=strict,
                progress=advance,
                say=lambda message: say(erase + message),
            )
    except KeyboardInterrupt:
        say(f"\n{partial_path(out)} keeps the finished shards; the same command goes on from there")
        raise
    if as_json:
        emit_json(
            {
                "out": str(out),
                "identity": result.identity,
                "images": result.images,
                "skipped": len(result.skipped),
                "ignored": folder.ignored,
                "classes": len(folder.classes),
                "splits": result.rows,
                "shards": result.shards,
                "codec": codec,
                "bytes_per_image": result.bytes_per_image,
                "computed": result.computed,
                "seconds": result.seconds,
                "images_per_second": result.images_per_second,
            }
        )
        return
    splits = ", ".join(f"{name} {rows}" for name, rows in result.rows.items())
    notes = [
        f"{result.images_per_second:.1f} images/s" if result.computed else "",
        f"{len(result.skipped)} unreadable images skipped" if result.skipped else "",
        f"{folder.ignored} other files ignored" if folder.ignored else "",
    ]
    click.echo(
        f"{out}: {result.images} images of {len(folder.classes)} classes ({splits}), "
        + ", ".join([f"{result.bytes_per_image:,} bytes an image", *filter(None, notes)])
    )
