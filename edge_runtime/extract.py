"""Images through a backbone into a feature folder that appears whole, or can be gone on with.

Everything is built in `NAME.partial/`; the same request finds its finished shards there.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import __version__, atomic, formats, partial_folder
from edge_runtime.backbone_base import BackboneBase
from edge_runtime.codecs import Codec
from edge_runtime.config import IGNORED
from edge_runtime.errors import ConfigError, DataError, require
from edge_runtime.image_folder import ImageFile, ImageFolder
from edge_runtime.masks import MaskShape, mask_shape
from edge_runtime.shard_writer import Shard, SplitWriter

Ahead = Callable[[SplitWriter, Mapping[str, Sequence[ImageFile]]], None]


@dataclass(frozen=True)
class ExtractResult:
    """What a run left behind; `computed` images went through the backbone in it, in `seconds`."""

    identity: str
    rows: dict[str, int]
    skipped: tuple[formats.Json, ...]
    bytes_per_image: int
    shards: int
    computed: int
    seconds: float

    @property
    def images(self) -> int:
        return sum(self.rows.values())

    @property
    def images_per_second(self) -> float:
        return self.computed / self.seconds if self.seconds else 0.0


def extract(
    images: ImageFolder,
    backbone: BackboneBase,
    out: Path,
    codec: Codec,
    *,
    batch_size: int = 16,
    force: bool = False,
    strict: bool = False,
    ahead: Ahead | None = None,
    progress: Callable[[int, str], None] = lambda images, note: None,
    say: Callable[[str], None] = lambda message: None,
) -> ExtractResult:
    """Writes the feature folder `out`, going on where the same request was interrupted.

    Args:
        force: replaces a feature folder that is there, and discards another request's partial one.
        strict: makes an unreadable image an error; else it is named, skipped and counted.
        ahead: may put shards into the partial folder by other means, and tells of them as the
            writer would; they are found and checked there, and only what is missing is made here.
        progress: called with a number of images just done, and the speed.
        say: called with a line for each unreadable image.

    Raises:
        ConfigError, OutputExistsError: `out` cannot be written to, or the codec does not fit.
        MismatchError: `out.partial` belongs to another request.
        DataError: a split, or a class of train, without readable images; features not finite.
        FormatError: the backbone's graph is damaged.
    """
    start = time.monotonic()
    computed = 0

    def skipped(name: str, reason: str) -> None:
        if strict:
            raise DataError(
                f"{images.root / name}: {reason}; repair or remove it, or leave out --strict"
            )
        say(f"skipped {name}: {reason}")

    def advance(count: int, rows: int) -> None:
        nonlocal computed
        computed += rows
        progress(count, f"{computed / (time.monotonic() - begin):.1f} images/s" if computed else "")

    _check_output(out, images.root, force=force)
    tokens = codec.stored_tokens(backbone.tokens, backbone.prefix_tokens)
    masks = None
    if images.masked:
        masks = mask_shape(backbone.preprocessing.size, tokens - backbone.prefix_tokens)
    backbone.verify()
    request = _request(images, backbone, codec, batch_size)
    partial = atomic.partial_path(out)
    with partial_folder.lock(partial):
        partial_folder.begin(partial, request, force=force)
        begin = time.monotonic()
        given = (partial, images.root, backbone, codec, batch_size, skipped, advance)
        writer = SplitWriter(*given, masks=masks, classes=len(images.classes))
        if ahead is not None:
            ahead(writer, images.splits)
            writer = replace(
                writer,
                skipped=lambda name, reason: None,
                advance=lambda images, rows: advance(rows, rows),
            )
        shards = {}
        for split, files in images.splits.items():
            shards[split] = writer.write(split, files)
            if split == "train" and not images.masked:
                _check_classes(images, shards[split])
        manifest = _manifest(images, backbone, codec, shards, masks)
        formats.write_json(partial / formats.MANIFEST, manifest)
        atomic.refuse_existing(out, force=force)
        atomic.publish_folder(partial, out)
        atomic.remove(out / partial_folder.RUN_FILE)
    return ExtractResult(
        identity=manifest["identity"],
        rows={split: entry["rows"] for split, entry in manifest["splits"].items()},
        skipped=tuple(manifest["skipped"]),
        bytes_per_image=codec.bytes_per_image(tokens, backbone.embed_dim)
        + (masks.bytes_per_image if masks else 0),
        shards=sum(map(len, shards.values())),
        computed=computed,
        seconds=time.monotonic() - start,
    )


def _request(
    images: ImageFolder, backbone: BackboneBase, codec: Codec, batch_size: int
) -> formats.Json:
    """Everything that the bytes of the shards follow from."""
    files = {s: [_listed(f) for f in files] for s, files in images.splits.items()}
    return {
        "format": formats.RUN,
        "version": formats.VERSION,
        "backbone": backbone.reference["identity"],
        "onnx_sha256": backbone.reference["onnx_sha256"],
        "codec": codec.name,
        "batch_size": batch_size,
        "images": formats.identity({"classes": images.classes, "files": files}),
        "versions": _versions(backbone),
    }


def _listed(file: ImageFile) -> list[str | int]:
    listed: list[str | int] = [file.path, file.label, file.bytes]
    return [*listed, file.mask, file.mask_bytes] if file.mask else listed


def _versions(backbone: BackboneBase) -> dict[str, str]:
    pillow = str(require("PIL", extra="vision").__version__)
    own = {"edgetune": __version__, "numpy": np.__version__, "Pillow": pillow}
    return {**own, **backbone.versions()}


def _check_output(out: Path, root: Path, *, force: bool) -> None:
    """Refuses to write into the images, or over anything that is not a feature folder."""
    if out.name in ("", ".."):
        raise ConfigError(f"--out {out} is no name for a new folder; give one, such as features")
    if root.resolve() in (out.resolve(), *out.resolve().parents):
        raise ConfigError(f"{out} lies inside the images in {root}; choose a place outside")
    formats.refuse_output(out, formats.FEATURES, force=force)


def _check_classes(images: ImageFolder, shards: Sequence[Shard]) -> None:
    """Raises DataError where a class has no readable image in train."""
    labels = {file.path: file.label for file in images.splits["train"]}
    counts = Counter(labels[path] for shard in shards for path in shard.paths)
    for label, name in enumerate(images.classes):
        if not counts[label]:
            raise DataError(
                f"no training image of class {name!r} can be read; put readable images there, or "
                f"remove the class"
            )


def _manifest(
    images: ImageFolder,
    backbone: BackboneBase,
    codec: Codec,
    shards: Mapping[str, Sequence[Shard]],
    masks: MaskShape | None,
) -> formats.Json:
    """The manifest of docs/formats.md."""
    tokens = codec.stored_tokens(backbone.tokens, backbone.prefix_tokens)
    manifest: formats.Json = {
        "format": formats.FEATURES,
        "version": formats.VERSION,
        "backbone": backbone.reference,
        "codec": codec.name,
        "tokens": tokens,
        "prefix_tokens": backbone.prefix_tokens,
        "embed_dim": backbone.embed_dim,
        "norm_eps": backbone.norm_eps,
        "classes": list(images.classes),
        "splits": {
            split: _split_entry(members, tokens * backbone.embed_dim)
            for split, members in shards.items()
        },
        "skipped": [
            {"split": split, "path": path, "reason": reason}
            for split, members in shards.items()
            for shard in members
            for path, reason in shard.skipped
        ],
    }
    if masks is not None:
        manifest["masks"] = {"size": masks.size, "ignored": IGNORED}
    return {**manifest, "identity": formats.identity(manifest), "versions": _versions(backbone)}


def _split_entry(shards: Sequence[Shard], entries_per_image: int) -> dict[str, Any]:
    rows = sum(shard.rows for shard in shards)
    mean_square = math.fsum(shard.sum_squares for shard in shards) / (rows * entries_per_image)
    if not mean_square:
        raise DataError(
            f"{shards[0].paths[0]} and all that follow have features of 0 only; export the "
            f"backbone again"
        )
    return {
        "rows": rows,
        "rms": math.sqrt(mean_square),
        "shards": [shard.entry() for shard in shards],
    }
