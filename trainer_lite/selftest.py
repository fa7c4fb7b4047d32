"""Is this machine's arithmetic what it should be? For boards without PyTorch or a test suite.

Gradients and ten training steps against figures that PyTorch gave, in both precisions; then the
main job in small: features written, trained on, saved, loaded, predicted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime import formats
from edge_runtime.adaptor import Adaptor
from edge_runtime.codecs import PLAIN
from edge_runtime.features import FeatureFolder
from edge_runtime.shard_writer import ShardBuffer, shard_name
from trainer_lite.config import TrainConfig
from trainer_lite.golden import CONFIGS, expected, golden_run, wave
from trainer_lite.trainer import Trainer

TOKENS, DIM, CLASSES = 9, 16, 3


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found, and what it may be at most (or at least)."""

    name: str
    found: float
    bound: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """NaN passes nothing."""
        return self.found >= self.bound if self.at_least else self.found <= self.bound


def run_checks() -> Iterator[Check]:
    """Every check, one after the other; takes a few seconds."""
    for name in CONFIGS:
        losses, gradients = expected(name)
        for dtype, bound in ((np.float64, 1e-8), (np.float32, 1e-4)):
            for tile in (1, 4):
                found, first = golden_run(name, dtype, tile)
                kind = f"{name}, {np.dtype(dtype).name}, tile {tile}"
                worst = max(abs(a - b) for a, b in zip(found, losses))
                yield Check(f"ten losses ({kind})", worst, bound)
                worst = max(
                    abs(float(np.sqrt(np.square(first[key]).sum())) / norm - 1)
                    for key, (_, norm) in gradients.items()
                )
                yield Check(f"gradients ({kind})", worst, bound)
    with tempfile.TemporaryDirectory() as folder:
        for codec in PLAIN:
            yield from _small_job(Path(folder) / codec, codec)


def _small_job(folder: Path, codec: str) -> Iterator[Check]:
    """Writes features, trains on them, saves and loads the adaptor, predicts."""
    write_features(folder, codec)
    features = FeatureFolder.open(folder)
    result = Trainer(TrainConfig(epochs=20, batch_size=8, rank=4, blocks=2)).fit(features)
    accuracy = result.test.accuracy if result.test else float("nan")
    yield Check(f"accuracy on separable features ({codec})", accuracy, 0.95, at_least=True)
    path = folder / "adaptor.safetensors"
    result.adaptor.save(path)
    test = features.split("test")
    change = np.abs(Adaptor.load(path).predict_proba(test) - result.adaptor.predict_proba(test))
    yield Check(f"probabilities after saving and loading ({codec})", float(change.max()), 0.0)


def write_features(folder: Path, codec: str) -> None:
    """A feature folder of three classes that differ in their mean, made by formula."""
    folder.mkdir()
    manifest: formats.Json = {
        "format": formats.FEATURES,
        "version": formats.VERSION,
        "backbone": {"identity": "selftest", "model": "selftest"},
        "codec": codec,
        "tokens": TOKENS,
        "prefix_tokens": 1,
        "embed_dim": DIM,
        "norm_eps": 1e-6,
        "classes": [str(label) for label in range(CLASSES)],
        "splits": {},
        "skipped": [],
    }
    for phase, (split, rows) in enumerate({"train": 48, "val": 12, "test": 24}.items()):
        labels = [row % CLASSES for row in range(rows)]
        centres = 3 * wave((CLASSES, 1, DIM), 0.0)[labels]
        features = (centres + wave((rows, TOKENS, DIM), phase + 1.0)).astype(np.float32)
        buffer = ShardBuffer(PLAIN[codec], rows, TOKENS, DIM)
        buffer.add(features, labels, [f"{split}/{row}" for row in range(rows)])
        shard = buffer.write(folder / shard_name(split, 0), split)
        rms = (shard.sum_squares / features.size) ** 0.5
        manifest["splits"][split] = {"rows": rows, "rms": rms, "shards": [shard.entry()]}
    signed = {**manifest, "identity": formats.identity(manifest), "versions": {}}
    formats.write_json(folder / formats.MANIFEST, signed)
