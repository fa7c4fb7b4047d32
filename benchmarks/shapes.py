"""Segmentation of shapes drawn by formula: the adaptor and its linear probe, mean IoU of pixels.

    python -m benchmarks.shapes --backbone backbone

Discs, squares and triangles of random sizes, colours and places, on textured backgrounds, with
their masks: 3 classes and the background. The colour says nothing, so that a token alone is often
not enough. Everything runs through the command line; images and features are kept in --work.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.demo import edgetune, edgetune_json
from edge_runtime.config import AdaptorConfig
from edge_runtime.features import FeatureFolder
from edge_runtime.metrics import PixelEvaluation
from edge_runtime.pixels import Pixels
from edge_runtime.program import Workspace

PATH = click.Path(path_type=Path)
CLASSES = ("background", "disc", "square", "triangle")
SIZE = 224


@click.command()
@click.option("--backbone", required=True, type=PATH, help="What `edgetune export` wrote.")
@click.option("--images", default=400, show_default=True, help="Of train; val and test have half.")
@click.option("--epochs", default=40, show_default=True)
@click.option("--codec", default="float16", show_default=True)
@click.option("--work", default="shapes-out", show_default=True, type=PATH)
def main(backbone: Path, images: int, epochs: int, codec: str, work: Path) -> None:
    """Prints mean IoU on test, of the epoch that did best on val, for both; and what the labels of
    the patches would give, interpolated as logits are: as fine as the grid allows."""
    folder, features = work / "images", work / f"features-{codec}"
    if not folder.exists():
        draw_folder(folder, {"train": images, "val": images // 2, "test": images // 2})
    if not features.exists():
        common = ["--backbone", str(backbone), "--codec", codec]
        edgetune("extract", str(folder), *common, "--out", str(features))
    for name, blocks in (("linear probe", 0), ("adaptor", 4)):
        out = work / f"{blocks}-{codec}.safetensors"
        options = ["--kind", "segmentation", "--blocks", str(blocks), "--epochs", str(epochs)]
        run = edgetune_json("train", str(features), *options, "--out", str(out), "--force")
        found = edgetune_json(
            "evaluate", str(out.with_name(f"{out.stem}.best{out.suffix}")), str(features)
        )
        click.echo(f"{name:14}{row(found)}  peak RSS {run['peak_rss_bytes'] / 2**20:.1f} MiB")
    click.echo(f"{'labels':14}mean IoU {of_labels(FeatureFolder.open(features)):.4f}")


def of_labels(features: FeatureFolder) -> float:
    """Mean IoU on test of the patches' own labels."""
    split, classes = features.split("test"), len(features.classes)
    prefix, dim = features.prefix_tokens, features.embed_dim
    config = AdaptorConfig(
        "segmentation", split.tokens, prefix, dim, classes, 0, 0, 1, "mean", 1e-6, 1.0
    )
    pixels = Pixels(config, split.mask_size, Workspace())
    for index, labels in enumerate(split.labels):
        split.read_masks(np.array([index]), pixels.truth[None])
        grid = labels.reshape(config.grid_side, -1)
        pixels.count(np.stack([grid == label for label in range(classes)]).astype(np.float32))
    return PixelEvaluation(pixels.counts).mean_iou


def row(found: dict[str, Any]) -> str:
    """An evaluation in one line."""
    each = ", ".join(f"{name} {iou:.3f}" for name, iou in found["per_class_iou"].items())
    return f"mean IoU {found['mean_iou']:.4f} ({each}), pixels {found['pixel_accuracy']:.4f}"


def draw_folder(root: Path, counts: dict[str, int]) -> None:
    """Writes images and masks of every split, and classes.txt; the same each time."""
    for split, count in counts.items():
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            image, mask = scene(random.Random(f"{split} {index}"))
            image.save(root / split / "images" / f"{index:04}.jpg", quality=90)
            mask.save(root / split / "masks" / f"{index:04}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")


def scene(rng: random.Random, size: int = SIZE) -> tuple[Any, Any]:
    """An image with one to four shapes, and its mask, both of Pillow."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(texture(rng, size))
    mask = Image.new("L", (size, size), 0)
    for _ in range(rng.randint(1, 4)):
        radius = rng.uniform(0.1, 0.25) * size
        x, y = (rng.uniform(radius, size - radius) for _ in range(2))
        label = rng.randint(1, 3)
        colour = tuple(rng.randint(0, 255) for _ in range(3))
        for canvas, ink in ((image, colour), (mask, label)):
            draw_shape(ImageDraw.Draw(canvas), label, x, y, radius, ink)
    return image, mask


def draw_shape(canvas: Any, label: int, x: float, y: float, radius: float, ink: Any) -> None:
    """A disc, a square or a triangle that stands on its side."""
    box = (x - radius, y - radius, x + radius, y + radius)
    if label == 1:
        canvas.ellipse(box, fill=ink)
    elif label == 2:
        canvas.rectangle(box, fill=ink)
    else:
        canvas.polygon([(x, box[1]), (box[0], box[3]), (box[2], box[3])], fill=ink)


def texture(rng: random.Random, size: int) -> Any:
    """Waves of three colours and grain: uint8 (size, size, 3)."""
    y, x = np.mgrid[:size, :size] / size
    channels = []
    for _ in range(3):
        wave = sum(
            np.sin(2 * np.pi * (rng.uniform(-6, 6) * x + rng.uniform(-6, 6) * y + rng.random()))
            for _ in range(3)
        )
        channels.append(rng.uniform(60, 190) + rng.uniform(8, 25) * wave)
    grain = np.resize([rng.gauss(0, 8) for _ in range(4099)], (size, size, 1))
    return np.clip(np.stack(channels, axis=2) + grain, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
