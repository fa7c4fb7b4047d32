"""What an image costs on the wire, up as pixels or files and down as features, and what it buys.

    python -m benchmarks.transfer FEATURES IMAGES --backbone BACKBONE --epochs 40

FEATURES (float16, with a val split) were extracted from IMAGES by BACKBONE. Every codec, alone and
in bases, is trained on as `edgetune codecs` does, several seeds each. Bytes are those of the data;
an Open Inference message adds what is printed as its frame. Methods that read every tap (LST, LAST)
need all maps of the backbone; they are counted here, and compared in benchmarks/methods.
"""

from __future__ import annotations

import io
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from edge_runtime.backbone import Backbone
from edge_runtime.cli.common import emit_json, json_option, progress
from edge_runtime.codecs import CODECS
from edge_runtime.errors import MismatchError, require
from edge_runtime.features import FeatureFolder
from edge_runtime.image_folder import ImageFolder, scan
from edge_runtime.open_inference import build
from edge_runtime.preprocess import Preprocessing, load_image
from edge_runtime.served_model import IMAGES, Form
from trainer_lite.config import TrainConfig
from trainer_lite.frontier import Point, candidates, form_name, frontier

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("features", type=PATH)
@click.argument("images", type=PATH)
@click.option("--backbone", type=PATH, required=True, help="Folder that `edgetune export` wrote.")
@click.option("--epochs", default=40, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--basis", "bases", multiple=True, type=int, help="[default: half of embed_dim]")
@click.option(
    "--codec",
    "only",
    multiple=True,
    type=click.Choice(list(CODECS)),
    help="Codecs to compare.  [default: all]",
)
@click.option("--quality", default=90, show_default=True, help="Of images encoded anew, as JPEG.")
@click.option("--sample", default=200, show_default=True, help="Images that are encoded anew.")
@click.option("--threads", default=1, show_default=True)
@json_option
def main(
    features: Path,
    images: Path,
    backbone: Path,
    epochs: int,
    seeds: int,
    bases: tuple[int, ...],
    only: tuple[str, ...],
    quality: int,
    sample: int,
    threads: int,
    as_json: bool,
) -> None:
    """Prints bytes up, bytes down, and the accuracy that each codec gives."""
    folder, opened, pictures = FeatureFolder.open(features), Backbone.open(backbone), scan(images)
    if folder.backbone["identity"] != opened.reference["identity"]:
        raise MismatchError(f"the features in {features} are not of the backbone {backbone}")
    up = sizes_up(pictures, opened.preprocessing, quality, sample)
    config, widths = TrainConfig(epochs=epochs), bases or (folder.embed_dim // 2,)
    with progress("training", len(candidates(folder, widths, only)) * seeds) as advance:
        points = frontier(
            folder, config, range(seeds), advance, widths=widths, only=only, threads=threads
        )
    down = [*all_taps(opened), *map(row_of, points)]
    frames = frame_bytes(opened)
    if as_json:
        emit_json({"features": folder.identity, "up": up, "down": down, "frame_bytes": frames})
        return
    click.echo(f"{'up':32}{'bytes an image':>14}")
    for name, size in up.items():
        click.echo(f"{name:32}{size:>14,.0f}")
    click.echo(f"\n{'down':32}{'bytes an image':>14}  {'val':24}test, {seeds} seeds")
    for row in down:
        val, test = (shown(row[split]) for split in ("val", "test"))
        click.echo(f"{row['name']:32}{row['bytes_per_image']:>14,}  {val:24}{test}".rstrip())
    click.echo(f"\na message's frame adds {frames['up']} bytes up and {frames['down']} down")


def sizes_up(
    pictures: ImageFolder, preprocessing: Preprocessing, quality: int, sample: int
) -> dict[str, float]:
    """Mean bytes of an image, by the form it is sent in."""
    image = require("PIL.Image", extra="vision")
    files = [file for split in pictures.splits.values() for file in split]
    chosen = files[:: max(1, len(files) // sample)][:sample]
    encoded = []
    for file in chosen:
        data = io.BytesIO()
        pixels = load_image(pictures.root / file.path, preprocessing)
        image.fromarray(pixels).save(data, "JPEG", quality=quality)
        encoded.append(len(data.getvalue()))
    size = preprocessing.size
    return {
        f"pixels, {size} x {size}": 3.0 * size * size,
        "files as they are": statistics.fmean(file.bytes for file in files),
        f"JPEG, {size} x {size}, quality {quality}": statistics.fmean(encoded),
    }


def all_taps(backbone: Backbone) -> list[dict[str, Any]]:
    """What sending every tap would take, embedding and blocks each a map: float16 and int8."""
    maps = int(backbone.reference["k"]) + 1
    rows = []
    for name in ("float16", "int8"):
        size = CODECS[name].bytes_per_image(backbone.tokens, backbone.embed_dim)
        row = {"name": f"all {maps} maps, {name}", "codec": name, "basis": None}
        rows.append({**row, "bytes_per_image": maps * size, "val": [], "test": []})
    return rows


def row_of(point: Point) -> dict[str, Any]:
    """A point of the frontier as a row."""
    return {"name": form_name(point.codec, point.basis), **asdict(point)}


def frame_bytes(backbone: Backbone) -> dict[str, int]:
    """Bytes of a message besides its data, for one image: pixels up, int8 features down."""
    size, codec = backbone.preprocessing.size, CODECS["int8"]
    pixels = np.zeros((1, size, size, 3), np.uint8)
    form = Form(codec)
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in form.output_names]
    request, _ = build({"outputs": outputs}, "inputs", {IMAGES: pixels}, [])
    answer = {
        "model_name": str(backbone.reference["model"]),
        "model_version": "1",
        "parameters": {"identity": backbone.reference["identity"]},
    }
    stored = np.zeros((1, backbone.tokens, backbone.embed_dim), codec.dtype)
    scale = np.zeros((1, backbone.tokens), np.float32)
    tensors = dict(zip(form.output_names, (stored, scale)))
    body, _ = build(answer, "outputs", tensors, [])
    return {
        "up": len(request) - pixels.nbytes,
        "down": len(body) - stored.nbytes - scale.nbytes,
    }


def shown(accuracies: list[float]) -> str:
    """Mean and deviation over the seeds."""
    if not accuracies:
        return ""
    return f"{statistics.fmean(accuracies):.4f} +- {statistics.pstdev(accuracies):.4f}"


if __name__ == "__main__":
    main()
