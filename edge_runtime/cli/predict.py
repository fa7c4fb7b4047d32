"""`edgetune predict`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.common import (
    PATH,
    connect,
    emit_json,
    json_option,
    say,
    traffic_note,
    with_server,
)

if TYPE_CHECKING:
    from edge_runtime.adaptor import Adaptor
    from edge_runtime.remote_backbone import RemoteBackbone

Predictions = tuple[list[str], Any]  # names, and probabilities of each


@click.command()
@click.argument("images", nargs=-1, type=PATH)
@click.option("--adaptor", required=True, type=PATH, help="The file that `edgetune train` wrote.")
@click.option("--backbone", type=PATH, help="The backbone folder to run IMAGES through.")
@with_server
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
    server: str | None,
    token_file: Path | None,
    ca: Path | None,
    timeout: float,
    features: Path | None,
    split: str,
    top_k: int,
    as_json: bool,
) -> None:
    """The most probable classes of IMAGES, or of the rows of a feature folder.

    An image that cannot be used is named, the others are predicted, and the exit status is 1.

    With --server the backbone is elsewhere (`edgetune serve`): an image goes there as it is (JPEG,
    PNG, WebP) or, where that is less, as the resized pixels; numpy is all that is needed here.

    \b
    Examples:
      edgetune predict cat.jpg dog.png --adaptor adaptor.safetensors --backbone backbone
      edgetune predict cat.jpg --adaptor adaptor.safetensors --server http://192.168.1.10:8000
      edgetune predict --adaptor adaptor.safetensors --features features --split test
    """
    if bool(images) == (features is not None):
        raise click.UsageError("give IMAGES with --backbone or --server, or --features, not both")
    if images and (backbone is None) == (server is None):
        raise click.UsageError(
            "IMAGES need --backbone, the folder that `edgetune export` wrote, or --server, a URL"
        )
    from edge_runtime.adaptor import Adaptor
    from edge_runtime.adaptor import top_k as best

    trained = Adaptor.load(adaptor)
    traffic: dict[str, int] = {}
    if features is not None:
        names, probabilities = from_features(trained, features, split)
    elif server is not None:
        remote = connect(server, token_file, ca, timeout)
        names, probabilities = from_server(trained, list(images), remote, server)
        traffic = {"bytes_up": remote.traffic.up, "bytes_down": remote.traffic.down}
    else:
        names, probabilities = from_backbone(trained, list(images), Path(str(backbone)))
    results = []
    for name, row in zip(names, probabilities):
        ranked = best(row, trained.classes, top_k)
        results.append({"image": name, "top": [{"class": c, "probability": p} for c, p in ranked]})
        if not as_json:
            click.echo(f"{name}: " + ", ".join(f"{c} {p:.3f}" for c, p in ranked))
    if as_json:
        emit_json({"predictions": results, **traffic})
    elif traffic and names:
        say(traffic_note(traffic["bytes_up"], traffic["bytes_down"], len(names)))
    if features is None and len(names) < len(images):
        raise click.exceptions.Exit(1)


def from_features(trained: Adaptor, folder: Path, split: str) -> Predictions:
    """(image names, probabilities) of the rows of a feature folder."""
    from edge_runtime.features import FeatureFolder

    opened = FeatureFolder.open(folder)
    trained.check_backbone(opened.backbone, f"the features in {folder} come from")
    rows = opened.split(split)
    return rows.paths, trained.predict_proba(rows)


def from_backbone(trained: Adaptor, images: list[Path], folder: Path) -> Predictions:
    """Predictions of images through a backbone on this machine."""
    from edge_runtime.backbone import Backbone
    from edge_runtime.image_features import local_features

    backbone = Backbone.open(folder)
    trained.check_backbone(backbone.reference, f"{folder} is")
    return from_images(trained, images, lambda image: local_features(backbone, image))


def from_server(
    trained: Adaptor, images: list[Path], remote: RemoteBackbone, url: str
) -> Predictions:
    """Predictions of images through a server, with the codec that the adaptor was trained on."""
    from edge_runtime.codecs import CODECS
    from edge_runtime.image_features import remote_features

    trained.check_backbone(remote.reference, f"{url} serves")
    codec = CODECS.get(str(trained.features.get("codec")), CODECS["float32"])
    return from_images(trained, images, lambda image: remote_features(remote, codec, image))


def from_images(
    trained: Adaptor, images: list[Path], features_of: Callable[[Path], Any]
) -> Predictions:
    """Predictions of the images that can be used, one at a time; the others are named."""
    from edge_runtime.errors import DataError

    names: list[str] = []
    probabilities: list[Any] = []
    for image in images:
        try:
            probabilities.append(trained.predict_proba(features_of(image))[0])
        except DataError as error:
            say(f"Error: {error}")
            continue
        names.append(str(image))
    return names, probabilities
