"""What adaptors of kind segmentation answer of an image: shares of its classes, and a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import formats
from edge_runtime.adaptor import Adaptor
from edge_runtime.atomic import refuse_unwritable
from edge_runtime.classifier import Classifier
from edge_runtime.errors import ConfigError
from edge_runtime.pixels import Pixels
from edge_runtime.png import write_mask
from edge_runtime.program import Workspace

Array = np.ndarray[Any, Any]


class Masks:
    """What adaptors of kind segmentation answer: shares of classes, and files of masks.

    Args:
        out: the folder for these, or None.
        keep_folders: whether images of one name are told apart by the folders they lie in.
        force: replaces files that are there.

    Raises:
        ConfigError: `out` is given, and there is not just one such adaptor to write masks of.
    """

    def __init__(
        self, adaptors: Sequence[Classifier], out: Path | None, *, keep_folders: bool, force: bool
    ):
        dense = [adaptor for adaptor in adaptors if adaptor.config.dense]
        if out is not None and len(dense) != 1:
            raise ConfigError(
                f"--out is for the masks of one adaptor of kind segmentation, and {len(dense)} of "
                f"those given are"
            )
        self.out, self.keep_folders, self.force = out, keep_folders, force
        self._pixels: dict[int, Pixels] = {}
        self._written: set[Path] = set()

    def result(self, image: str, adaptor: Classifier, grids: Any) -> formats.Json:
        """Shares of the classes that are there, the largest first; and the file, if one is kept.

        Raises:
            OutputExistsError: it is there already.
        """
        assert isinstance(adaptor, Adaptor)
        if id(adaptor) not in self._pixels:
            size = adaptor.mask_size
            self._pixels[id(adaptor)] = Pixels(adaptor.config, size, Workspace(np.float32))
        mask = self._pixels[id(adaptor)].mask(grids)
        shares = np.bincount(mask.reshape(-1), minlength=len(adaptor.classes)) / mask.size
        found: formats.Json = {
            "shares": [
                {"class": adaptor.classes[index], "share": float(shares[index])}
                for index in np.argsort(-shares, kind="stable").tolist()
                if shares[index]
            ]
        }
        if self.out is not None:
            found["mask"] = str(self._write(Path(image), mask))
        return found

    def _write(self, image: Path, mask: Any) -> Path:
        inside = [part for part in image.parts if part not in ("..", image.anchor)]
        folders = inside[:-1] if self.keep_folders else []
        path = Path(str(self.out), *folders, f"{image.stem}.png")
        refuse_unwritable(path, force=self.force and path not in self._written)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, mask)
        self._written.add(path)
        return path
