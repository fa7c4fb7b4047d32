"""`edgetune predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.common import PATH, emit_json, json_option, say

if TYPE_CHECKING:
    from edge_runtime.adaptor import Adaptor


@click.command()
@click.argument("images", nargs=-1, type=PATH)
@click.option("--adaptor", required=True, type=PATH, help="The file that `edgetune train` wrote.")
@click.option("--backbone", type=PATH, help="The backbone folder to run IMAGES through.")
@click.option("--features", type=PATH, help="Predict rows of a feature folder instead of IMAGES.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Which split of --features.",
)
@click.option(
    "--top-k", default=3, show_default=True, type=click.IntRange(1), help="Classes to show."
)
@json_option
def predict(
    images: tuple[Path, ...],
    adaptor: Path,
    backbone: Path | None,
    features: Path | None,
    split: str,
    top_k: int,
    as_json: bool,
) -> None:
    """The most probable classes of IMAGES, or of the rows of a feature folder.

    An image that cannot be used is named, the others are predicted, and the exit status is 1.

    \b
    Examples:
      edgetune predict cat.jpg dog.png --adaptor adaptor.safetensors --backbone backbone
      edgetune predict --adaptor adaptor.safetensors --features features --split test
    """
    if bool(images) == (features is not None):
        raise click.UsageError("give IMAGES with --backbone, or --features, not both")
    if images and backbone is None:
        raise click.UsageError("IMAGES need --backbone, the folder that `edgetune export` wrote")
    from edge_runtime.adaptor import Adaptor
    from edge_runtime.adaptor import top_k as best

    trained = Adaptor.load(adaptor)
    if features is not None:
        names, probabilities = from_features(trained, features, split)
    else:
        names, probabilities = from_images(trained, list(images), Path(str(backbone)))
    results = []
    for name, row in zip(names, probabilities):
        ranked = best(row, trained.classes, top_k)
        results.append({"image": name, "top": [{"class": c, "probability": p} for c, p in ranked]})
        if not as_json:
            click.echo(f"{name}: " + ", ".join(f"{c} {p:.3f}" for c, p in ranked))
    if as_json:
        emit_json({"predictions": results})
    if features is None and len(names) < len(images):
        raise click.exceptions.Exit(1)


def from_features(trained: Adaptor, folder: Path, split: str) -> tuple[list[str], Any]:
    """(image names, probabilities) of the rows of a feature folder."""
    from edge_runtime.features import FeatureFolder

    opened = FeatureFolder.open(folder)
    trained.check_backbone(opened.backbone, f"the features in {folder} come from")
    rows = opened.split(split)
    return rows.paths, trained.predict_proba(rows)


def from_images(trained: Adaptor, images: list[Path], folder: Path) -> tuple[list[str], list[Any]]:
    """(names, probabilities) of the images that could be predicted, one at a time."""
    from edge_runtime.backbone import Backbone
    from edge_runtime.errors import DataError
    from edge_runtime.preprocess import load_image

    backbone = Backbone.open(folder)
    trained.check_backbone(backbone.reference, f"{folder} is")
    names: list[str] = []
    probabilities: list[Any] = []
    for image in images:
        try:
            pixels = load_image(image, backbone.preprocessing)
            features = backbone.run(pixels[None], [str(image)])
            probabilities.append(trained.predict_proba(features)[0])
        except DataError as error:
            say(f"Error: {error}")
            continue
        names.append(str(image))
    return names, probabilities
