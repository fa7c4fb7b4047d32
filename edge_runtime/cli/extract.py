"""`edgetune extract`: a folder of images into a folder of features."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edge_runtime.cli.common import (
    PATH,
    connect,
    emit_json,
    force_option,
    json_option,
    load,
    progress,
    say,
    traffic_note,
    with_server,
)

CODEC_NAMES = ["float16", "float32", "int8", "int4", "float16-pool2", "int8-pool2", "int4-pool2"]
ENGINES = {"local": "", "ray": "export.ray_engine:engine"}


@click.command(short_help="Run a folder of images through a backbone.")
@click.argument("images", type=PATH)
@click.option("--backbone", type=PATH, help="Folder that `edgetune export` wrote.")
@with_server
@click.option("--out", required=True, type=PATH, help="Feature folder to write.")
@click.option(
    "--codec",
    type=click.Choice(CODEC_NAMES),
    default="float16",
    show_default=True,
    help="How features are stored: bits a value; -pool2 averages squares of 2 x 2 patch tokens.",
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
    help="Threads of onnxruntime.  [default: all processors; with Ray 1 in each worker]",
)
@click.option(
    "--engine",
    type=click.Choice(list(ENGINES)),
    default="local",
    show_default=True,
    help="What makes the shards: this process, or a Ray Data job (extra [ray]).",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Ray's workers, one shard each at a time.  [default: all its CPUs but one]",
)
@click.option("--strict", is_flag=True, help="Stop at an unreadable image instead of skipping it.")
@force_option
@json_option
def extract(
    images: Path,
    backbone: Path | None,
    server: str | None,
    token_file: Path | None,
    ca: Path | None,
    timeout: float,
    out: Path,
    codec: str,
    batch_size: int,
    threads: int | None,
    engine: str,
    workers: int | None,
    strict: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Run IMAGES through a backbone and keep its features.

    IMAGES holds one folder for each class, or train/, val/ and test/ with these inside (val and
    test may be missing). The features are all that `edgetune train` needs: copy their folder to
    the device.

    For segmentation, IMAGES holds classes.txt (a name a line) and train/, val/ and test/ with
    images/NAME.jpg and masks/NAME.png inside: pixels are indices of classes, 255 is ignored. Masks
    are cropped as the images are and kept beside the features.

    An interrupted command, repeated, goes on where it stopped; until it is done, everything lies
    in OUT.partial. Unreadable images are named, skipped and counted. --force also discards an
    OUT.partial that was begun with other settings.

    With --server the backbone is elsewhere (`edgetune serve`): images are resized here, their
    pixels sent, and the features come back as they are stored. The folder is the same to the byte.

    With --engine ray, workers make many shards at a time, on this machine or on the cluster that
    RAY_ADDRESS names; IMAGES, the backbone and OUT must then be on a disk that all share. This,
    too, gives the same folder, and either engine goes on with what the other began.

    \b
    Examples:
      edgetune extract photos --backbone backbone --out features
      edgetune extract photos --server http://192.168.1.10:8000 --out features
    """
    if (backbone is None) == (server is None):
        raise click.UsageError("give --backbone, a folder, or --server, a URL")
    if engine == "local" and workers is not None:
        raise click.UsageError("--workers is for --engine ray")
    if engine != "local" and server is not None:
        raise click.UsageError(f"--engine {engine} opens the backbone in its workers: --backbone")
    from edge_runtime.atomic import partial_path
    from edge_runtime.backbone import Backbone
    from edge_runtime.backbone_base import BackboneBase
    from edge_runtime.codecs import CODECS
    from edge_runtime.errors import ServerError
    from edge_runtime.extract import extract as run
    from edge_runtime.image_folder import scan
    from edge_runtime.mask_folder import has_masks, scan_masks

    ahead = None if engine == "local" else load(ENGINES[engine])(workers, threads)
    folder = scan_masks(images) if has_masks(images) else scan(images)
    opened: BackboneBase
    remote = None
    if server is not None:
        opened = remote = connect(server, token_file, ca, timeout)
        remote.check_batch(batch_size)
    else:
        opened = Backbone.open(Path(str(backbone)), threads)
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
                ahead=ahead,
                progress=advance,
                say=lambda message: say(erase + message),
            )
    except (KeyboardInterrupt, ServerError):
        say(f"\n{partial_path(out)} keeps the finished shards; the same command goes on from there")
        raise
    up, down = (remote.traffic.up, remote.traffic.down) if remote else (0, 0)
    if as_json:
        emit_json(
            {
                "out": str(out),
                "identity": result.identity,
                "images": result.images,
                "skipped": len(result.skipped),
                "ignored": folder.ignored,
                "classes": len(folder.classes),
                **({"masks": True} if folder.masked else {}),
                "splits": result.rows,
                "shards": result.shards,
                "codec": codec,
                "bytes_per_image": result.bytes_per_image,
                "computed": result.computed,
                "seconds": result.seconds,
                "images_per_second": result.images_per_second,
                "bytes_up": up,
                "bytes_down": down,
            }
        )
        return
    splits = ", ".join(f"{name} {rows}" for name, rows in result.rows.items())
    notes = [
        f"{result.images_per_second:.1f} images/s" if result.computed else "",
        traffic_note(up, down, result.computed) if remote and result.computed else "",
        f"{len(result.skipped)} unreadable images skipped" if result.skipped else "",
        f"{folder.ignored} other files ignored" if folder.ignored else "",
    ]
    click.echo(
        f"{out}: {result.images} images of {len(folder.classes)} classes ({splits}), "
        + ", ".join([f"{result.bytes_per_image:,} bytes an image", *filter(None, notes)])
    )
