"""`edgetune predict`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.common import (
    PATH,
    connect,
    emit_json,
    force_option,
    json_option,
    runtime_option,
    say,
    set_blas_threads,
    traffic_note,
    with_server,
)

if TYPE_CHECKING:
    from edge_runtime.feature_split import FeatureSplit
    from edge_runtime.mask_answers import Masks
    from edge_runtime.remote_backbone import RemoteBackbone
    from edge_runtime.served_model import Form
    from edge_runtime.together import Together

Asked = tuple[str, Any]  # an image, and its probabilities by adaptor or why there are none
Result = dict[str, Any]
Features = Callable[[Path], Any]  # an image's features, float32 [1, tokens, embed_dim]
STDIN = Path("-")


@click.command()
@click.argument("images", nargs=-1, type=PATH)
@click.option(
    "--adaptor",
    "adaptors",
    required=True,
    multiple=True,
    type=PATH,
    help="The file that `edgetune train` or `edgetune export-adaptor` wrote; may be repeated.",
)
@click.option("--backbone", type=PATH, help="The backbone folder to run IMAGES through.")
@with_server
@click.option("--watch", type=PATH, help="Predict images as they appear in this folder.")
@click.option(
    "--interval",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0.01),
    help="Seconds between two looks at the folder of --watch.",
)
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
@click.option("--out", type=PATH, help="Folder for masks, of adaptors of kind segmentation.")
@runtime_option
@force_option
@json_option
def predict(
    images: tuple[Path, ...],
    adaptors: tuple[Path, ...],
    backbone: Path | None,
    server: str | None,
    token_file: Path | None,
    ca: Path | None,
    timeout: float,
    watch: Path | None,
    interval: float,
    features: Path | None,
    split: str,
    top_k: int,
    out: Path | None,
    runtime: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """The most probable classes of IMAGES, or of the rows of a feature folder.

    An image that cannot be used is named, the others are predicted, and the exit status is 1.
    Several adaptors of one backbone share its features, and in numpy one product.

    Of an adaptor of kind segmentation, the classes come with their shares of the pixels, and --out
    keeps the masks, as NAME.png: indices of classes with a palette, of what the backbone sees, that
    is the image resized and cropped to its middle, at that size.

    With --watch, or with - for IMAGES (their paths on stdin, one a line), the command goes on until
    it is stopped, or stdin ends; each result is one JSON object on a line of its own:
    image, adaptor and top (or shares and mask), or image and error.

    With --server the backbone is elsewhere (`edgetune serve`): an image goes there as it is (JPEG,
    PNG, WebP) or, where that is less, as the resized pixels; numpy is all that is needed here.

    \b
    Examples:
      edgetune predict cat.jpg dog.png --adaptor adaptor.safetensors --backbone backbone
      edgetune predict cat.jpg --adaptor adaptor.safetensors --server http://192.168.1.10:8000
      edgetune predict --adaptor adaptor.safetensors --features features --split test
      edgetune predict street.jpg --adaptor segments.safetensors --backbone backbone --out masks
      edgetune predict --watch inbox --adaptor a.safetensors --adaptor b.safetensors \\
          --backbone backbone
    """
    if sum([bool(images), watch is not None, features is not None]) != 1:
        raise click.UsageError("give one of IMAGES with --backbone, --watch, and --features")
    if features is None and (backbone is None) == (server is None):
        raise click.UsageError(
            "IMAGES need --backbone, the folder that `edgetune export` wrote, or --server, a URL"
        )
    set_blas_threads(1)  # one image is too little work for two, and each takes memory
    from edge_runtime.allocate import map_large_blocks
    from edge_runtime.code_pages import release_code_pages
    from edge_runtime.mask_answers import Masks
    from edge_runtime.runtimes import open_adaptor
    from edge_runtime.together import Together

    together = Together([open_adaptor(path, runtime) for path in adaptors])
    masks = Masks(together.adaptors, out, keep_folders=features is not None, force=force)
    streaming = watch is not None or images == (STDIN,)
    if streaming:
        map_large_blocks()
    remote = None if server is None else connect(server, token_file, ca, timeout)
    if features is not None:
        asked = of_features(together, features, split)
    else:
        features_of = (
            from_server(together, remote, str(server))
            if remote
            else from_folder(together, backbone)
        )
        asked = of_images(together, paths_of(images, watch, interval), features_of)
    if streaming:
        release_code_pages()
    failed, predicted, kept = False, 0, []
    for result in results(asked, together, adaptors, top_k, masks):
        failed |= "error" in result
        predicted += result.get("adaptor") == str(adaptors[0])
        if streaming:
            click.echo(json.dumps(result, allow_nan=False))
        elif "error" in result:
            say(f"Error: {result['error']}")
        elif as_json:
            kept.append(result)
        else:
            click.echo(line(result, name_adaptor=len(adaptors) > 1))
    traffic = {}
    if remote is not None:
        traffic = {"bytes_up": remote.traffic.up, "bytes_down": remote.traffic.down}
    if as_json and not streaming:
        emit_json({"predictions": kept, **traffic})
    elif traffic and predicted:
        say(traffic_note(traffic["bytes_up"], traffic["bytes_down"], predicted))
    if failed:
        raise click.exceptions.Exit(1)


def paths_of(images: tuple[Path, ...], watch: Path | None, interval: float) -> Iterable[Path]:
    """The images to predict: those named, or as they come."""
    if watch is not None:
        from edge_runtime.watch import appearing

        return appearing(watch, interval)
    if images == (STDIN,):
        lines = (os.fsdecode(text.rstrip(b"\r\n")) for text in sys.stdin.buffer)
        return (Path(text) for text in lines if text)
    return images


def of_features(together: Together, folder: Path, split: str) -> Iterator[Asked]:
    """The rows of a feature folder, all at once."""
    from edge_runtime.features import FeatureFolder

    opened = FeatureFolder.open(folder)
    for adaptor in together.adaptors:
        adaptor.check_stored(opened)
    rows = opened.split(split)
    if any(adaptor.config.dense for adaptor in together.adaptors):
        yield from row_by_row(together, rows)
    else:
        yield from zip(rows.paths, zip(*together.predict(rows)))


def row_by_row(together: Together, rows: FeatureSplit) -> Iterator[Asked]:
    """As all at once, where that would take much memory."""
    import numpy as np

    z = np.empty((1, rows.tokens, rows.embed_dim), np.float32)
    norms, scratch = np.empty(z.shape[:2], np.float32), np.empty(rows.scratch_bytes(1), np.uint8)
    for index, path in enumerate(rows.paths):
        rows.read(np.array([index]), z, norms, scratch)
        yield path, [answer[0] for answer in together.predict(z)]


def from_folder(together: Together, folder: Path | None) -> Features:
    """Features through a backbone on this machine."""
    from edge_runtime.backbone import Backbone
    from edge_runtime.image_features import local_features

    backbone = Backbone.open(Path(str(folder)))
    for adaptor in together.adaptors:
        adaptor.check_backbone(backbone.reference, f"{folder} is")
    form = form_of(together)
    return lambda image: local_features(backbone, form, image)


def from_server(together: Together, remote: RemoteBackbone, url: str) -> Features:
    """Features through a server, in the form that the first adaptor was trained on."""
    from edge_runtime.image_features import remote_features

    for adaptor in together.adaptors:
        adaptor.check_backbone(remote.reference, f"{url} serves")
    form = form_of(together)
    return lambda image: remote_features(remote, form, image)


def form_of(together: Together) -> Form:
    """The form that images are fetched in: that of the first adaptor.

    Raises:
        MismatchError: the adaptors take different numbers of tokens, or are of different bases.
    """
    from edge_runtime.classifier import identity_of, in_words
    from edge_runtime.errors import MismatchError
    from edge_runtime.served_model import Form

    bases = {identity_of(adaptor.basis): adaptor.basis for adaptor in together.adaptors}
    if len(bases) > 1:
        listed = ", others ".join(sorted(map(in_words, bases.values())))
        raise MismatchError(
            f"these adaptors share no feature: some were trained on features {listed}; predict "
            f"with each kind by itself"
        )
    used = [adaptor.trained_codec for adaptor in together.adaptors]
    if len({codec.pool for codec in used}) > 1:
        raise MismatchError(
            f"these adaptors share no feature: they were trained on "
            f"{', '.join(sorted({codec.name for codec in used}))}; predict with the pooled ones by "
            f"themselves"
        )
    return Form(used[0], together.adaptors[0].basis)


def of_images(together: Together, images: Iterable[Path], features_of: Features) -> Iterator[Asked]:
    """Images, one at a time; those that cannot be used come with the error."""
    from edge_runtime.errors import DataError

    for image in images:
        try:
            rows = together.predict(features_of(image))
            yield str(image), [row[0] for row in rows]
        except DataError as error:
            yield str(image), error


def results(
    asked: Iterable[Asked],
    together: Together,
    adaptors: tuple[Path, ...],
    k: int,
    masks: Masks,
) -> Iterator[Result]:
    """One object an image and adaptor: image, adaptor and top, or of kind segmentation shares and
    mask; or image and error."""
    from edge_runtime.adaptor import top_k
    from edge_runtime.errors import OutputExistsError

    for image, answers in asked:
        if isinstance(answers, Exception):
            yield {"image": image, "error": str(answers)}
            continue
        for path, adaptor, probabilities in zip(adaptors, together.adaptors, answers):
            if adaptor.config.dense:
                try:
                    found = masks.result(image, adaptor, probabilities)
                except OutputExistsError as error:
                    yield {"image": image, "error": f"{image}: {error}"}
                    continue
                yield {"image": image, "adaptor": str(path), **found}
                continue
            ranked = top_k(probabilities, adaptor.classes, k)
            top = [{"class": name, "probability": p} for name, p in ranked]
            yield {"image": image, "adaptor": str(path), "top": top}


def line(result: Result, *, name_adaptor: bool) -> str:
    """A result for people."""
    kind, listed = ("share", "shares") if "shares" in result else ("probability", "top")
    top = ", ".join(f"{best['class']} {best[kind]:.3f}" for best in result[listed])
    if "mask" in result:
        top += f" -> {result['mask']}"
    adaptor = f" [{result['adaptor']}]" if name_adaptor else ""
    return f"{result['image']}{adaptor}: {top}"
