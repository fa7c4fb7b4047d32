"""A feature folder in another codec: what `extract` would have stored, to the codec's rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_runtime import formats
from edge_runtime.codecs import Codec, pooled
from edge_runtime.errors import ConfigError
from edge_runtime.feature_split import FeatureSplit
from edge_runtime.features import FeatureFolder
from edge_runtime.masks import MaskShape, mask_shape
from edge_runtime.shard_writer import ShardBuffer, rows_per_shard, shard_name

PIECE = 16  # images at a time


def transcode(features: FeatureFolder, codec: Codec, out: Path) -> FeatureFolder:
    """Writes every split of `features` in another codec; a working copy, without a manifest file.

    Raises:
        ConfigError: pooled features, which cannot be undone, or tokens that the codec cannot pool.
    """
    if features.codec.pool > 1:
        raise ConfigError(
            f"{features.path} holds pooled features ({features.codec.name}); extract the images "
            f"again with --codec float16 to compare codecs"
        )
    tokens = codec.stored_tokens(features.tokens, features.prefix_tokens)
    masks = None
    if features.masks is not None:
        masks = mask_shape(features.masks.size, tokens - features.prefix_tokens)
    out.mkdir(parents=True)
    shape = (tokens, features.embed_dim)
    splits = {
        name: write_split(features.split(name), codec, shape, out, masks)
        for name in features.split_names
    }
    manifest = {**features.manifest, "codec": codec.name, "splits": splits}
    manifest.update(tokens=tokens, identity=f"transcoded {codec.name}")
    return FeatureFolder(out, manifest)


def write_split(
    split: FeatureSplit,
    codec: Codec,
    shape: tuple[int, int],
    out: Path,
    masks: MaskShape | None,
) -> formats.Json:
    """The shards of one split; its entry in the manifest."""
    nbytes = codec.bytes_per_image(*shape) + (masks.bytes_per_image if masks else 0)
    capacity = min(rows_per_shard(nbytes), split.rows)
    entries: list[formats.Json] = []
    squares = 0.0
    for first in range(0, split.rows, capacity):
        stop = min(first + capacity, split.rows)
        buffer = ShardBuffer(codec, capacity, *shape, masks)
        for start in range(first, stop, PIECE):
            rows = np.arange(start, min(start + PIECE, stop))
            z = np.empty((len(rows), split.tokens, split.embed_dim), np.float32)
            norms = np.empty(z.shape[:2], np.float32)
            split.read(rows, z, norms, np.empty(split.scratch_bytes(len(rows)), np.uint8))
            labels = split.labels[rows]
            if masks is not None:
                labels = np.empty((len(rows), masks.size, masks.size), np.uint8)
                split.read_masks(rows, labels)
            buffer.add(pooled(codec, z, split.folder.prefix_tokens), labels, [""] * len(rows))
        shard = buffer.write(out / shard_name(split.name, len(entries)), split.name)
        entries.append(shard.entry())
        squares += shard.sum_squares
    rms = (squares / (split.rows * shape[0] * shape[1])) ** 0.5
    return {"rows": split.rows, "rms": rms, "shards": entries}
