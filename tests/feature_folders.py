"""Feature folders small enough for tests, made with numpy alone: separable classes, many shards."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from edge_runtime import codecs, formats, tensorfile
from edge_runtime.config import IGNORED
from edge_runtime.masks import MaskShape, mask_shape
from edge_runtime.shard_writer import ShardBuffer, digests, shard_name

Array = np.ndarray[Any, Any]

ROWS = {"train": 24, "val": 8, "test": 10}
PARTS = {
    "weights_sha256": "cd" * 32,
    "k": 2,
    "preprocessing": {"size": 8},
    "graph_version": 1,
}
BACKBONE = {**PARTS, "identity": formats.identity(PARTS), "model": "tiny", "onnx_sha256": "ef" * 32}


@dataclass(frozen=True)
class Written:
    """A feature folder and what went into it, by split: float32 features, labels and paths; where
    it has masks, labels are these."""

    path: Path
    features: dict[str, Array]
    labels: dict[str, Array]
    paths: dict[str, list[str]]


@mock.patch("os.fsync", new=int)  # what tests write need not survive a power cut
def write_features(
    path: Path,
    *,
    codec: str = "float16",
    rows: Mapping[str, int] = ROWS,
    shard_rows: int = 7,
    tokens: int = 5,
    prefix_tokens: int = 1,
    embed_dim: int = 8,
    classes: int = 3,
    separation: float = 4.0,
    seed: int = 0,
    mask_size: int = 0,
) -> Written:
    """Writes a folder whose classes differ by their mean, `separation` standard deviations apart.

    Labels go round the classes, so that every split with as many rows has each of them. With a
    mask_size, a multiple of the grid's side, every patch has a class of its own; some have none.
    """
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((classes, 1, embed_dim)) * separation
    written = Written(path, {}, {}, {})
    manifest: formats.Json = {
        "format": formats.FEATURES,
        "version": formats.VERSION,
        "backbone": BACKBONE,
        "codec": codec,
        "tokens": tokens,
        "prefix_tokens": prefix_tokens,
        "embed_dim": embed_dim,
        "norm_eps": 1e-6,
        "classes": [f"class-{index}" for index in range(classes)],
        "splits": {},
        "skipped": [],
    }
    masks = None
    if mask_size:
        masks = mask_shape(mask_size, tokens - prefix_tokens)
        manifest["masks"] = {"size": mask_size, "ignored": IGNORED}
    path.mkdir(parents=True)
    for split, count in rows.items():
        labels = np.arange(count) % classes
        noise = rng.standard_normal((count, tokens, embed_dim))
        if mask_size:
            side = math.isqrt(tokens - prefix_tokens)
            labels = rng.integers(0, classes, (count, side * side))
            noise[:, prefix_tokens:] += means[labels, 0]
            grid = np.where(rng.random(labels.shape) < 0.1, IGNORED, labels).astype(np.uint8)
            ones = np.ones((mask_size // side,) * 2, np.uint8)
            written.labels[split] = np.stack([np.kron(g.reshape(side, side), ones) for g in grid])
            written.features[split] = noise.astype(np.float32)
            labels = labels[:, 0]
        else:
            written.features[split] = (means[labels] + noise).astype(np.float32)
            written.labels[split] = labels
        written.paths[split] = [f"{split}/class-{c}/{i}.png" for i, c in enumerate(labels)]
        manifest["splits"][split] = _write_split(written, split, codec, shard_rows, masks)
    sign(path, manifest)
    return written


def _write_split(
    written: Written, split: str, codec: str, shard_rows: int, masks: MaskShape | None
) -> formats.Json:
    """Writes the shards of one split; returns its entry in the manifest."""
    features, labels = written.features[split], written.labels[split]
    shards, squares = [], 0.0
    for index, start in enumerate(range(0, len(features), shard_rows)):
        part = slice(start, min(start + shard_rows, len(features)))
        buffer = ShardBuffer(codecs.CODECS[codec], shard_rows, *features.shape[1:], masks)
        given = labels[part] if masks else [int(c) for c in labels[part]]
        buffer.add(features[part], given, written.paths[split][part])
        shard = buffer.write(written.path / shard_name(split, index), split)
        shards.append(shard.entry())
        squares += shard.sum_squares
    return {"rows": len(features), "rms": (squares / features.size) ** 0.5, "shards": shards}


def decoded(features: Array, codec: str) -> Array:
    """What a reader gets back for these features."""
    stored, scale = codecs.encode(codecs.CODECS[codec], features)
    out = np.empty(features.shape, np.float32)
    codecs.decode(codecs.CODECS[codec], stored, scale, out)
    return out


def sign(folder: Path, manifest: formats.Json) -> None:
    """Writes a manifest with the identity that its content has."""
    unsigned = {k: v for k, v in manifest.items() if k not in ("identity", "versions")}
    signed = {**unsigned, "identity": formats.identity(unsigned), "versions": {}}
    formats.write_json(folder / formats.MANIFEST, signed)


@mock.patch("os.fsync", new=int)
def alter_manifest(folder: Path, change: Callable[[Any], object]) -> None:
    """Changes the manifest in place and signs it anew."""
    manifest = json.loads((folder / formats.MANIFEST).read_text())
    change(manifest)
    sign(folder, manifest)


@mock.patch("os.fsync", new=int)
def alter_shard(folder: Path, split: str, change: Callable[[dict[str, Array]], object]) -> None:
    """Changes tensors of a split's first shard and makes the manifest agree with it again."""
    path = folder / shard_name(split, 0)
    tensors, metadata = tensorfile.read(path)
    change(tensors)
    tensorfile.write(path, tensors, metadata)
    size, crc32, sha256 = digests(path)

    def update(manifest: Any) -> None:
        entry = manifest["splits"][split]["shards"][0]
        entry.update(bytes=size, crc32=crc32, sha256=sha256)

    alter_manifest(folder, update)
