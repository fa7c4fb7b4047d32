"""The images that these tests extract, and the call that does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_runtime import extract
from edge_runtime.backbone import Backbone
from edge_runtime.codecs import CODECS
from edge_runtime.extract import ExtractResult
from edge_runtime.image_folder import scan

ROWS = 5
NAMES = [f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(6)] + [
    f"{split}/{c}/{i}.png" for split in ("test", "val") for c in ("cat", "dog") for i in range(3)
]
BAD = ["train/cat/0.png", "train/cat/5.png", "train/dog/4.png", "train/dog/5.png"]
BAD += ["val/cat/0.png", "test/dog/1.png", "test/dog/2.png"]


def run(
    images: Path, backbone: Backbone, out: Path, codec: str = "float16", **options: Any
) -> ExtractResult:
    return extract.extract(
        scan(images), backbone, out, CODECS[codec], **{"batch_size": 2, **options}
    )


def spoil(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).write_bytes(b"no image")
