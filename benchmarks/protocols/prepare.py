"""Where a protocol works: its features, extracted once, and how it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.protocols.trials import Options, Trials
from edge_runtime.backbone import Backbone
from edge_runtime.codecs import CODECS
from edge_runtime.errors import ConfigError
from edge_runtime.extract import extract
from edge_runtime.features import FeatureFolder
from edge_runtime.image_folder import scan


@dataclass(frozen=True)
class Workplace:
    """Args:
    fixed: options of every run. tried: options to choose from on val. tell: takes a line.
    """

    folder: Path
    backbone: Path
    codec: str
    fixed: Options
    tried: Sequence[Options]
    seeds: int
    tell: Callable[[str], None]

    @property
    def trials(self) -> Trials:
        return Trials(self.folder / "runs", self.fixed)

    def features(self, name: str, images: Path) -> FeatureFolder:
        """The features of a folder of images; extracted when first asked for."""
        if self.codec not in CODECS:
            raise ConfigError(f"--codec must be one of {', '.join(CODECS)}, not {self.codec!r}")
        out = self.features_path(name)
        if not out.exists():
            self.tell(f"extracting {name}")
            backbone = Backbone.open(self.backbone)
            extract(scan(images), backbone, out, CODECS[self.codec], say=self.tell)
        return FeatureFolder.open(out)

    def features_path(self, name: str) -> Path:
        """Where the features of that name are kept."""
        return self.folder / f"{name}-features"
