"""`edgetune add-class`."""

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
    say,
    set_blas_threads,
)


@click.command("add-class")
@click.argument("adaptor", type=PATH)
@click.argument("features", type=PATH)
@click.option("--out", required=True, type=PATH, help="The adaptor file to write.")
@click.option("--old", type=PATH, help="Features of classes that ADAPTOR knows, to compare with.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="train",
    show_default=True,
    help="What the classes are made from.",
)
@click.option("--replace", "replaced", multiple=True, help="A known class to make anew; repeat.")
@force_option
@json_option
def add_class(
    adaptor: Path,
    features: Path,
    out: Path,
    old: Path | None,
    split: str,
    replaced: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Teach ADAPTOR the classes of FEATURES that it does not know, without training.

    A class becomes a row of the head, made from the mean of what the adaptor sees in its images
    (weight imprinting); a few images do, and nothing else changes. Images of old classes, in
    FEATURES or --old, tell what all images have in common and make the new rows much better.
    Accuracy on old and new classes is told where val or test has images of them.

    `edgetune train --init` on images of all classes goes on from there.

    \b
    Examples:
      edgetune add-class adaptor.safetensors new-features --old features --out grown.safetensors
      edgetune train all-features --init grown.safetensors --epochs 5 --out better.safetensors
    """
    set_blas_threads()
    from edge_runtime.atomic import refuse_unwritable
    from edge_runtime.features import FeatureFolder
    from trainer_lite.growing import grow
    from trainer_lite.start import Start

    refuse_unwritable(out, force=force)
    start, opened = Start.load(adaptor), FeatureFolder.open(features)
    others = None if old is None else FeatureFolder.open(old)
    folders = [opened, *([] if others is None else [others])]
    rows = sum(folder.split(name).rows for folder in folders for name in folder.split_names)
    with progress("add-class", rows) as advance:
        growth = grow(
            start,
            opened,
            others,
            split=split,
            replaced=replaced,
            advance=lambda count: advance(count, ""),
        )
    growth.adaptor.save(out)
    if not growth.old_images:
        say(
            "warning: there was no image of an old class to hold the new ones against; give "
            "features with some as --old"
        )
    if as_json:
        emit_json(
            {
                "adaptor": str(out),
                "classes": growth.adaptor.classes,
                "imprinted": growth.images,
                "old_images": growth.old_images,
                "accuracy": [dataclasses.asdict(one) for one in growth.accuracy],
            }
        )
        return
    added = ", ".join(f"{name} ({count} images)" for name, count in growth.images.items())
    click.echo(f"{out}: {len(growth.adaptor.classes)} classes, made here: {added}")
    for one in growth.accuracy:
        click.echo(
            f"accuracy on {one.split}: old classes {shown(one.old_before)} before, "
            f"{shown(one.old_after)} after; new classes {shown(one.new_after)}"
        )


def shown(accuracy: float | None) -> str:
    """An accuracy for people."""
    return "-" if accuracy is None else f"{accuracy:.4f}"
