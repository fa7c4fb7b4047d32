"""A feature folder with some classes of another, and as many training images of each as asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import formats
from edge_runtime.feature_split import FeatureSplit
from edge_runtime.features import FeatureFolder
from edge_runtime.shard_writer import ShardBuffer, rows_per_shard, shard_name

Array = np.ndarray[Any, Any]


def write_subset(
    features: FeatureFolder, classes: Sequence[str], out: Path, shots: Mapping[str, int]
) -> Path:
    """Writes `out`, stored entries as they are.

    Args:
        classes: names, of which the new folder knows no other.
        shots: training images of a class, the first ones; all of a class that is not named.
    """
    out.mkdir(parents=True)
    splits: dict[str, formats.Json] = {}
    for name in features.split_names:
        split = features.split(name)
        rows = rows_of(split, classes, shots if name == "train" else {})
        splits[name] = write_rows(split, rows, classes, out)
    kept = {k: v for k, v in features.manifest.items() if k not in ("identity", "versions")}
    content = {**kept, "classes": list(classes), "splits": splits, "skipped": []}
    signed = {**content, "identity": formats.identity(content), "versions": {}}
    formats.write_json(out / formats.MANIFEST, signed)
    return out


def rows_of(split: FeatureSplit, classes: Sequence[str], shots: Mapping[str, int]) -> Array:
    """Rows of the classes, in the order of the split."""
    rows = [
        np.flatnonzero(split.labels == split.folder.classes.index(name))[: shots.get(name)]
        for name in classes
    ]
    return np.sort(np.concatenate(rows))


def write_rows(split: FeatureSplit, rows: Array, classes: Sequence[str], out: Path) -> formats.Json:
    """The shards of one split; its entry in the manifest."""
    codec, tokens, width = split.folder.codec, split.tokens, split.embed_dim
    capacity = min(rows_per_shard(codec.bytes_per_image(tokens, width)), len(rows))
    renamed = {split.folder.classes.index(name): index for index, name in enumerate(classes)}
    paths, scratch = split.paths, np.empty(split.scratch_bytes(1), np.uint8)
    norms = np.empty((1, tokens), np.float32)
    entries: list[formats.Json] = []
    squares = 0.0
    for first in range(0, len(rows), capacity):
        buffer = ShardBuffer(codec, capacity, tokens, width)
        for row in rows[first : first + capacity]:
            stored, scale = split.read_stored(np.array([row]), norms, scratch)
            label = renamed[int(split.labels[row])]
            buffer.add_encoded(stored, scale, [label], [paths[row]])
        shard = buffer.write(out / shard_name(split.name, len(entries)), split.name)
        entries.append(shard.entry())
        squares += shard.sum_squares
    rms = (squares / (len(rows) * tokens * width)) ** 0.5
    return {"rows": len(rows), "rms": rms, "shards": entries}
