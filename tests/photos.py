"""An image folder of two classes that differ in colour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np


def write_photos(root: Path, counts: Mapping[str, int]) -> None:
    """Writes cat and dog images for each split, so many a class."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for channel, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 120, (40, 50, 3), np.uint8)
                pixels[:, :, channel] += 120
                Image.fromarray(pixels).save(folder / f"{index}.jpg")
