"""`edgetune evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_runtime.cli.common import PATH, emit_json, json_option, runtime_option

if TYPE_CHECKING:
    from edge_runtime.metrics import Evaluation, PixelEvaluation


@click.command()
@click.argument("adaptor", type=PATH)
@click.argument("features", type=PATH)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    help="Which split. [default: test, or val, or train, the first there is]",
)
@runtime_option
@json_option
def evaluate(
    adaptor: Path, features: Path, split: str | None, runtime: str | None, as_json: bool
) -> None:
    """Accuracy of ADAPTOR on a split of FEATURES: in all, by class, and what is taken for what.

    ADAPTOR is what `edgetune train` or `edgetune export-adaptor` wrote. FEATURES may hold some of
    its classes only. Of kind segmentation it is the mean IoU, the IoU of each class and accuracy,
    all of pixels.

    \b
    Example:
      edgetune evaluate adaptor.safetensors features --split test
    """
    from edge_runtime.features import FeatureFolder
    from edge_runtime.metrics import PixelEvaluation
    from edge_runtime.runtimes import open_adaptor

    trained = open_adaptor(adaptor, runtime)
    folder = FeatureFolder.open(features)
    name = split or next(s for s in ("test", "val", "train") if s in folder.split_names)
    rows = trained.labelled(folder, name)
    found = trained.evaluate(rows)
    if isinstance(found, PixelEvaluation):
        show_pixels(name, len(rows.labels), trained.classes, found, as_json=as_json)
        return
    if as_json:
        emit_json(
            {
                "split": name,
                "images": int(found.confusion.sum()),
                "accuracy": found.accuracy,
                "per_class": dict(zip(trained.classes, found.per_class)),
                "classes": trained.classes,
                "confusion": found.confusion.tolist(),
            }
        )
        return
    click.echo(f"accuracy on {name} ({found.confusion.sum()} images): {found.accuracy:.4f}")
    click.echo(table(trained.classes, found))


def show_pixels(
    name: str, images: int, classes: list[str], found: PixelEvaluation, *, as_json: bool
) -> None:
    """What is known of pixels, for machines or for people."""
    if as_json:
        emit_json(
            {
                "split": name,
                "images": images,
                "pixels": int(found.confusion.sum()),
                "mean_iou": found.mean_iou,
                "pixel_accuracy": found.accuracy,
                "per_class_iou": dict(zip(classes, found.per_class_iou)),
                "classes": classes,
                "confusion": found.confusion.tolist(),
            }
        )
        return
    click.echo(
        f"mean IoU on {name} ({images} images): {found.mean_iou:.4f}, pixel accuracy "
        f"{found.accuracy:.4f}"
    )
    wide = max(map(len, classes))
    click.echo(f"{'':>{wide + 4}}  {'IoU':>8}  {'pixels':>12}")
    totals = found.confusion.sum(axis=1).tolist()
    for index, (label, iou, pixels) in enumerate(zip(classes, found.per_class_iou, totals)):
        shown = "-" if iou is None else f"{iou:.3f}"
        click.echo(f"{index:>3} {label:>{wide}}  {shown:>8}  {pixels:>12,}")


def table(classes: list[str], found: Evaluation) -> str:
    """Accuracy by class and the confusion matrix: a row a true class, a column a predicted one."""
    wide = max(len(name) for name in classes)
    cell = max(4, len(str(found.confusion.max())) + 1)
    heads = "".join(f"{i:>{cell}}" for i in range(len(classes)))
    lines = [f"{'':>{wide + 4}}  accuracy {heads}  (predicted)"]
    for index, (name, accuracy) in enumerate(zip(classes, found.per_class)):
        shown = "       -" if accuracy is None else f"{accuracy:8.3f}"
        counts = "".join(f"{count:>{cell}}" for count in found.confusion[index])
        lines.append(f"{index:>3} {name:>{wide}}  {shown} {counts}")
    return "\n".join(lines)
