"""What all peers train: one batch of features, start values, the optimiser's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import tensorfile
from edge_runtime.config import AdaptorConfig
from edge_runtime.feature_split import FeatureSplit
from edge_runtime.features import FeatureFolder

Array = np.ndarray[Any, Any]

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05  # of the matrices alone, as PyTorch code usually has it
BETAS = (0.9, 0.999)
EPS = 1e-8


@dataclass(frozen=True)
class Problem:
    """One batch, as a device has it (float16 on disk), and the parameters to start from.

    `tile` is how many images a pass ours takes, None for what training would take.
    """

    config: AdaptorConfig
    start: dict[str, Array]
    features: FeatureSplit
    tile: int | None

    @classmethod
    def read(cls, folder: Path) -> Problem:
        """What `write_problem` wrote."""
        start, metadata = tensorfile.read(folder / "start.safetensors")
        config = AdaptorConfig.from_json(json.loads(metadata["config"]))
        features = FeatureFolder.open(folder / "features").split("train")
        return cls(config, start, features, json.loads(metadata["tile"]))

    @property
    def graph(self) -> Path:
        """Where a peer's graph lies, if it needs one made beforehand."""
        return self.features.folder.path.parent / "graph"

    def decoded(self) -> tuple[Array, Array]:
        """The batch as frameworks want it: float32 features (B, N, d), int64 labels (B,)."""
        split = self.features
        z = np.empty((split.rows, split.tokens, split.embed_dim), np.float32)
        norms = np.empty(z.shape[:2], np.float32)
        for row in range(split.rows):
            one, scratch = slice(row, row + 1), np.empty(split.scratch_bytes(1), np.uint8)
            split.read(np.array([row]), z[one], norms[one], scratch)
        return z, split.labels.astype(np.int64)


def write_problem(
    folder: Path,
    *,
    tokens: int,
    dim: int,
    blocks: int,
    rank: int,
    heads: int,
    classes: int,
    batch: int,
    tile: int | None,
) -> None:
    """Writes made-up features and parameters, nothing of which is zero."""
    from tests.feature_folders import write_features
    from trainer_lite.parameters import ParameterSet

    rng = np.random.default_rng(0)
    features = folder / "features"
    shape = {"tokens": tokens, "embed_dim": dim, "classes": classes}
    write_features(features, rows={"train": batch}, shard_rows=batch, **shape)
    rms = FeatureFolder.open(features).split("train").rms
    config = AdaptorConfig(
        "attention", tokens, 1, dim, classes, rank, blocks, heads, "mean", 1e-6, rms
    )
    parameters = ParameterSet(config)
    parameters.initialise(0)
    for name, values in parameters.values.items():
        if name != "blocks.qkv":  # the others start at 0 or 1, where much of the gradient vanishes
            values += rng.standard_normal(values.shape) * 0.1
    metadata = {"config": json.dumps(config.to_json()), "tile": json.dumps(tile)}
    tensorfile.write(folder / "start.safetensors", parameters.values, metadata)


def by_block(parameters: Mapping[str, Array]) -> dict[str, Array]:
    """One tensor a block and kind, as frameworks hold them: `blocks.qkv.0`, `blocks.qkv.1` ..."""
    split = {}
    for name, values in parameters.items():
        if name.startswith("blocks."):
            split.update({f"{name}.{index}": block for index, block in enumerate(values)})
        else:
            split[name] = values
    return split


def dotless(name: str) -> str:
    """A parameter's name for graphs, whose names have no dots."""
    return name.replace(".", "_")


def gathered(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The way back for any kind of tensor: a block's kind maps to the list of its blocks."""
    whole: dict[str, Any] = {}
    for name, tensor in tensors.items():
        kind, _, index = name.rpartition(".")
        if index.isdigit():
            whole.setdefault(kind, []).append(tensor)
        else:
            whole[name] = tensor
    return whole
