"""Every tap of every image of a set, on disk: what ladder and side networks are trained on.

A folder a set, with three files a split: `SPLIT.taps`, float16 (rows, taps, tokens, dim), read row
by row; `SPLIT-pooled.npy`, float32 (rows, 2, 2, dim), the sum of the taps and the last tap, of each
the class token and the mean of the patch tokens; `SPLIT-labels.npy`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import atomic
from edge_runtime.backbone import Backbone
from edge_runtime.errors import DataError
from edge_runtime.image_folder import scan
from edge_runtime.preprocess import load_image

Array = np.ndarray[Any, Any]

BATCH = 16
SOURCES = ("sum", "last")  # of pooled vectors
POOLS = ("cls", "mean")


@dataclass(frozen=True)
class TapShape:
    """Shape of one image's taps, and root mean squares over the training images."""

    taps: int
    tokens: int
    prefix_tokens: int
    dim: int
    classes: int
    rms: tuple[float, ...]  # of each tap
    sum_rms: float

    @property
    def image_bytes(self) -> int:
        """Bytes of all taps of one image in float16."""
        return 2 * self.taps * self.tokens * self.dim


class TapSplit:
    """One split, read row by row, or from memory once it was `load`ed."""

    def __init__(self, folder: Path, name: str):
        self.shape = read_shape(folder)
        self.labels: Array = np.load(folder / f"{name}-labels.npy")
        self.pooled: Array = np.load(folder / f"{name}-pooled.npy")
        self._file = os.open(folder / f"{name}.taps", os.O_RDONLY)
        self._loaded: Array | None = None

    def load(self) -> None:
        """Reads all rows into memory: every epoch anew would be 1 MB an image at ViT-Ti/16."""
        self._loaded = self.read(np.arange(len(self.labels)))

    def read(self, rows: Array) -> Array:
        """Taps of some rows, float16 (n, taps, tokens, dim)."""
        if self._loaded is not None:
            return self._loaded[rows]
        shape = self.shape
        out = np.empty((len(rows), shape.taps, shape.tokens, shape.dim), np.float16)
        for row, target in zip(rows.tolist(), out):
            view = memoryview(target).cast("B")
            if os.preadv(self._file, [view], row * shape.image_bytes) != shape.image_bytes:
                raise DataError("a file of taps ends early; remove its folder and run again")
        return out


def read_shape(folder: Path) -> TapShape:
    """The shape that `extract_taps` noted."""
    content = json.loads((folder / "shape.json").read_text())
    return TapShape(**{**content, "rms": tuple(content["rms"])})


def extract_taps(images: Path, backbone: Path, model: Any, out: Path) -> None:
    """Writes the folder `out`, whole or not at all.

    Args:
        images: `{train,val,test}/CLASS/*`.
        backbone: what `edgetune export` wrote; its preprocessing is used.
        model: TapStack of the same weights.
    """
    found = scan(images)
    preprocessing = Backbone.open(backbone).preprocessing
    partial = atomic.partial_path(out)
    atomic.remove(partial)
    partial.mkdir(parents=True)
    squares: list[Array] = []
    sum_square, shape = 0.0, None
    for split, files in found.splits.items():
        pooled = []
        with open(partial / f"{split}.taps", "wb") as target:
            for start in range(0, len(files), BATCH):
                paths = [images / file.path for file in files[start : start + BATCH]]
                taps = model(np.stack([load_image(path, preprocessing) for path in paths]))
                target.write(taps.astype(np.float16).tobytes())
                total = taps.sum(1)
                pooled.append(pool(np.stack([total, taps[:, -1]], 1), model.prefix_tokens))
                if split == "train":
                    squares.append((taps**2).mean((2, 3)))
                    sum_square += float((total**2).mean((1, 2)).sum())
                shape = taps.shape[1:]
        np.save(partial / f"{split}-pooled.npy", np.concatenate(pooled).astype(np.float32))
        np.save(partial / f"{split}-labels.npy", np.array([file.label for file in files]))
    assert shape is not None
    mean_square = np.concatenate(squares).mean(0)
    noted = TapShape(
        *shape[:2],
        model.prefix_tokens,
        shape[2],
        len(found.classes),
        tuple(np.sqrt(mean_square).tolist()),
        (sum_square / len(found.splits["train"])) ** 0.5,
    )
    (partial / "shape.json").write_text(json.dumps(asdict(noted)))
    atomic.publish_folder(partial, out)


def pool(maps: Array, prefix_tokens: int) -> Array:
    """(rows, sources, tokens, dim) -> (rows, sources, 2, dim): class token, mean of the patches."""
    return np.stack([maps[:, :, 0], maps[:, :, prefix_tokens:].mean(2)], 2)
