"""A feature folder of noise: for measuring, where speed and memory matter and labels do not."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from edge_runtime import formats
from edge_runtime.codecs import Codec
from edge_runtime.config import IGNORED
from edge_runtime.features import FeatureFolder
from edge_runtime.masks import mask_shape
from edge_runtime.shard_writer import ShardBuffer, shard_name

PIECE = 8  # images at a time
AMPLITUDE = 4.0  # about that of real features: sums of unnormalised maps


def write_made_up(
    folder: Path,
    codec: Codec,
    *,
    rows: int,
    tokens: int,
    embed_dim: int,
    classes: int,
    prefix_tokens: int = 1,
    mask_size: int = 0,
) -> FeatureFolder:
    """Writes one shard of `rows` images, labels going round the classes; no manifest file.

    With a mask_size, images have masks, whose columns go round the classes.
    The same arguments give the same bytes. Features repeat with a period that is no power of two.
    """
    draw = random.Random(0).gauss
    period = np.array([draw(0.0, AMPLITUDE) for _ in range(9973)], np.float32)
    prefix = min(prefix_tokens, tokens - 1)
    masks = mask_shape(mask_size, tokens - prefix) if mask_size else None
    mask = np.resize(np.arange(classes, dtype=np.uint8), (mask_size, mask_size))
    buffer = ShardBuffer(codec, rows, tokens, embed_dim, masks)
    for start in range(0, rows, PIECE):
        count = min(PIECE, rows - start)
        noise = np.resize(np.roll(period, start), count * tokens * embed_dim)
        labels = [row % classes for row in range(start, start + count)]
        given = np.stack([mask] * count) if masks else labels
        buffer.add(noise.reshape(count, tokens, embed_dim), given, [""] * count)
    shard = buffer.write(folder / shard_name("train", 0), "train")
    entries = rows * tokens * embed_dim
    split = {"rows": rows, "rms": (shard.sum_squares / entries) ** 0.5, "shards": [shard.entry()]}
    manifest: formats.Json = {
        "identity": "made up",
        "backbone": {"identity": "made up"},
        "codec": codec.name,
        "tokens": tokens,
        "prefix_tokens": prefix,
        "embed_dim": embed_dim,
        "norm_eps": 1e-6,
        "classes": [str(index) for index in range(classes)],
        "splits": {"train": split},
    }
    if masks is not None:
        manifest["masks"] = {"size": masks.size, "ignored": IGNORED}
    return FeatureFolder(folder, manifest)
