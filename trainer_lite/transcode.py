"""A feature folder in another codec, and in a basis if asked for: stored again, not computed again.

Without a basis it is what `extract` would have stored, to the codec's rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import __version__, atomic, formats, partial_folder
from edge_runtime.basis import FILE, Basis
from edge_runtime.codecs import Codec, pooled
from edge_runtime.errors import ConfigError, DataError
from edge_runtime.feature_split import FeatureSplit
from edge_runtime.features import FeatureFolder
from edge_runtime.masks import MaskShape, mask_shape
from edge_runtime.shard_writer import ShardBuffer, digests, rows_per_shard, shard_name
from trainer_lite.directions import Directions

Array = np.ndarray[Any, Any]

PIECE = 16  # images at a time
Advance = Callable[[int, str], None]


def directions(
    features: FeatureFolder, codec: Codec, advance: Advance = lambda images, note: None
) -> Directions:
    """Principal directions of the train split, pooled as the codec does.

    Raises:
        ConfigError: as `transcode`.
    """
    _check(features, codec)
    split = features.split("train")
    return Directions(tokens_of(split, codec, range(split.rows), advance))


def save_transcoded(
    features: FeatureFolder,
    codec: Codec,
    out: Path,
    basis: Basis | None = None,
    advance: Advance = lambda images, note: None,
    *,
    force: bool = False,
) -> FeatureFolder:
    """As `transcode`; the folder `out` appears whole or not at all.

    Raises:
        OutputExistsError: `out` exists and may not be replaced.
        MismatchError: `out.partial` belongs to another request.
    """
    _check(features, codec, basis)
    if out.name in ("", ".."):
        raise ConfigError(f"--out {out} is no name for a new folder; give one, such as smaller")
    if features.path.resolve() in (out.resolve(), *out.resolve().parents):
        raise ConfigError(f"{out} is, or lies inside, the features; choose a place outside")
    formats.refuse_output(out, formats.FEATURES, force=force)
    partial = atomic.partial_path(out)
    request = {
        "format": formats.RUN,
        "version": formats.VERSION,
        "features": features.identity,
        "codec": codec.name,
        "basis": None if basis is None else basis.identity,
    }
    with partial_folder.lock(partial):
        partial_folder.begin(partial, request, force=force)
        made = transcode(features, codec, partial, basis, advance)
        formats.write_json(partial / formats.MANIFEST, made.manifest)
        atomic.refuse_existing(out, force=force)
        atomic.publish_folder(partial, out)
        atomic.remove(out / partial_folder.RUN_FILE)
    return FeatureFolder.open(out)


def transcode(
    features: FeatureFolder,
    codec: Codec,
    out: Path,
    basis: Basis | None = None,
    advance: Advance = lambda images, note: None,
) -> FeatureFolder:
    """Writes every split of `features` in another codec; a working copy, without a manifest file.

    Args:
        advance: called with a number of images just done, for progress.

    Raises:
        ConfigError: features that are pooled or in a basis, which cannot be undone, or tokens that
            the codec cannot pool.
        MismatchError: a basis of features of another width.
        DataError: the features have nothing along the basis.
    """
    _check(features, codec, basis)
    tokens = codec.stored_tokens(features.tokens, features.prefix_tokens)
    out.mkdir(parents=True, exist_ok=True)
    width = features.embed_dim if basis is None else basis.width
    shape, masks = (tokens, width), None
    if features.masks is not None:
        masks = mask_shape(features.masks.size, tokens - features.prefix_tokens)
    manifest = {
        **features.manifest,
        "codec": codec.name,
        "tokens": tokens,
        "embed_dim": width,
        "splits": {
            name: write_split(features.split(name), codec, shape, out, basis, advance, masks)
            for name in features.split_names
        },
    }
    if basis is not None:
        manifest["basis"] = write_basis(basis, out)
    unsigned = {k: v for k, v in manifest.items() if k not in ("identity", "versions")}
    own = {"edgetune": __version__, "numpy": np.__version__}
    versions = {**features.manifest.get("versions", {}), **own}
    return FeatureFolder(
        out, {**unsigned, "identity": formats.identity(unsigned), "versions": versions}
    )


def write_basis(basis: Basis, out: Path) -> formats.Json:
    """The file of a basis; its entry in the manifest."""
    basis.save(out / FILE)
    size, crc32, sha256 = digests(out / FILE)
    file = {"file": FILE, "rows": basis.width, "bytes": size, "crc32": crc32, "sha256": sha256}
    return {**file, "embed_dim": basis.embed_dim, "identity": basis.identity}


def tokens_of(split: FeatureSplit, codec: Codec, rows: range, advance: Advance) -> Iterator[Array]:
    """Some rows, float32 [n, tokens, embed_dim], a few at a time, pooled as the codec does."""
    for start in rows[::PIECE]:
        wanted = np.arange(start, min(start + PIECE, rows.stop))
        z = np.empty((len(wanted), split.tokens, split.embed_dim), np.float32)
        norms = np.empty(z.shape[:2], np.float32)
        split.read(wanted, z, norms, np.empty(split.scratch_bytes(len(wanted)), np.uint8))
        yield pooled(codec, z, split.folder.prefix_tokens)
        advance(len(wanted), split.name)


def masks_of(split: FeatureSplit, part: slice, masks: MaskShape) -> Array:
    """The masks of some rows, uint8 (rows, size, size)."""
    rows = np.arange(part.start, part.stop)
    out = np.empty((len(rows), masks.size, masks.size), np.uint8)
    split.read_masks(rows, out)
    return out


def write_split(
    split: FeatureSplit,
    codec: Codec,
    shape: tuple[int, int],
    out: Path,
    basis: Basis | None,
    advance: Advance,
    masks: MaskShape | None,
) -> formats.Json:
    """The shards of one split; its entry in the manifest."""
    nbytes = codec.bytes_per_image(*shape) + (masks.bytes_per_image if masks else 0)
    capacity = min(rows_per_shard(nbytes), split.rows)
    entries: list[formats.Json] = []
    labels, paths = split.labels.tolist(), split.paths
    squares = 0.0
    for first in range(0, split.rows, capacity):
        rows = range(first, min(first + capacity, split.rows))
        buffer = ShardBuffer(codec, capacity, *shape, masks)
        for z in tokens_of(split, codec, rows, advance):
            part = slice(first + buffer.rows, first + buffer.rows + len(z))
            given = labels[part] if masks is None else masks_of(split, part, masks)
            buffer.add(z if basis is None else basis.apply(z), given, paths[part])
        shard = buffer.write(out / shard_name(split.name, len(entries)), split.name)
        entries.append(shard.entry())
        squares += shard.sum_squares
    if not squares:
        raise DataError(
            f"{split.folder.path}: nothing of split {split.name} is left in this basis; fit one on "
            f"these features"
        )
    rms = (squares / (split.rows * shape[0] * shape[1])) ** 0.5
    return {"rows": split.rows, "rms": rms, "shards": entries}


def _check(features: FeatureFolder, codec: Codec, basis: Basis | None = None) -> None:
    """Refuses features that were made smaller in a way that cannot be undone, or do not fit."""
    lost = []
    if features.codec.pool > 1:
        lost.append(f"pooled features ({features.codec.name})")
    if features.basis is not None:
        lost.append(f"features in a basis of {features.basis.width}")
    if lost:
        raise ConfigError(
            f"{features.path} holds {' and '.join(lost)}; start from features as the backbone "
            f"gives them: extract the images again with --codec float16"
        )
    codec.stored_tokens(features.tokens, features.prefix_tokens)
    if basis is not None:
        basis.check_width(features.embed_dim)
