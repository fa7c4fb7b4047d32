"""What every adaptor knows of itself, whatever computes it: an adaptor file, a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime import formats
from edge_runtime.codecs import CODECS, Codec
from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import ConfigError, FormatError, MismatchError
from edge_runtime.selected import by_name

if TYPE_CHECKING:
    from edge_runtime.basis import Basis
    from edge_runtime.features import FeatureFolder
    from edge_runtime.metrics import Evaluation
    from edge_runtime.sources import FeatureSource

IDENTITY_PARTS = ("weights_sha256", "k", "preprocessing", "graph_version")
ENTRIES = ("config", "classes", "backbone", "features", "training")


class Classifier(ABC):
    """From the features of an image to probabilities of named classes."""

    config: AdaptorConfig
    classes: list[str]
    backbone: formats.Json
    features: formats.Json
    training: formats.Json
    basis: Basis | None
    """What the features it was trained on are stored in; None: as the backbone gives them."""

    @abstractmethod
    def predict_proba(self, features: Any) -> Any:
        """Probabilities (rows, classes); rows sum to 1.

        Args:
            features: (rows, tokens, dim) in true units, or a FeatureSource.
        """

    @abstractmethod
    def evaluate(self, source: FeatureSource) -> Evaluation:
        """Accuracy and confusion on labelled features."""

    def check_backbone(self, other: Mapping[str, Any], what: str) -> None:
        """Refuses features or a backbone whose identity is not the one trained on.

        Args:
            other: the `backbone` entry of a feature manifest, or a backbone's manifest entry of
                the same form. what: how to name it in the message.
        """
        if other.get("identity") == self.backbone.get("identity"):
            return
        differing = [p for p in IDENTITY_PARTS if other.get(p) != self.backbone.get(p)]
        raise MismatchError(
            f"this adaptor was trained on backbone {describe(self.backbone)}, {what} "
            f"{describe(other)}; they differ in {', '.join(differing) or 'identity'}. "
            f"Use the backbone it was trained on, or train again"
        )

    def labelled(self, features: FeatureFolder, split: str) -> FeatureSource:
        """A split's rows with labels that are places in `classes`; they are matched by name.

        Raises:
            MismatchError: features of another backbone, in another basis, of unknown classes, or
                labelled otherwise.
            DataError: the folder has no such split.
        """
        self.check_stored(features)
        if self.config.dense != (features.masks is not None):
            raise MismatchError(
                f"the adaptor is of kind {self.config.kind}, and {features.path} has "
                + ("masks" if features.masks else "a class an image and no masks")
            )
        rows = features.split(split)
        if features.classes == self.classes:
            return rows
        if self.config.dense or not set(features.classes) <= set(self.classes):
            raise MismatchError(
                f"the adaptor knows the classes {', '.join(self.classes)}; {features.path} has "
                f"{', '.join(features.classes)}"
            )
        return by_name(rows, features.classes, features.classes, self.classes)

    def check_stored(self, features: FeatureFolder) -> None:
        """Refuses features of another backbone, or in another basis."""
        self.check_backbone(features.backbone, f"the features in {features.path} come from")
        if identity_of(features.basis) != identity_of(self.basis):
            raise MismatchError(
                f"this adaptor was trained on features {in_words(self.basis)}, those in "
                f"{features.path} are {in_words(features.basis)}; `edgetune transcode --basis` "
                f"takes a number, or the folder whose basis it should be"
            )

    @property
    def trained_codec(self) -> Codec:
        """The codec of the features it was trained on; float32 where that is not known."""
        return CODECS.get(str(self.features.get("codec")), CODECS["float32"])

    def entries(self) -> formats.Json:
        """What is kept of an adaptor besides its tensors; `parse_entries` takes it back."""
        return {
            "config": self.config.to_json(),
            "classes": self.classes,
            "backbone": self.backbone,
            "features": self.features,
            "training": self.training,
        }


def parse_entries(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """ENTRIES of a file's metadata, checked, with `config` as an AdaptorConfig.

    Raises:
        FormatError: one is missing, of the wrong type, or they do not agree.
    """
    parts: dict[str, Any] = {}
    for key in ENTRIES:
        parts[key] = content.get(key)
        if not isinstance(parts[key], list if key == "classes" else dict):
            raise FormatError(f"{path}: metadata entry {key!r} is missing or damaged")
    try:
        parts["config"] = AdaptorConfig.from_json(parts["config"])
    except ConfigError as error:
        raise FormatError(f"{path}: {error}") from None
    parts["classes"] = [str(name) for name in parts["classes"]]
    if len(parts["classes"]) != parts["config"].classes:
        raise FormatError(f"{path}: {parts['config'].classes} classes need as many names")
    return parts


def identity_of(basis: Basis | None) -> str | None:
    """Of a basis; None where there is none."""
    return None if basis is None else basis.identity


def in_words(basis: Basis | None) -> str:
    """What features are stored in."""
    if basis is None:
        return "as the backbone gives them"
    return f"in a basis of {basis.width} (identity {basis.identity[:12]})"


def describe(backbone: Mapping[str, Any]) -> str:
    """A backbone in a few words: name, k, and the start of its identity."""
    identity = str(backbone.get("identity", "?"))[:12]
    return f"{backbone.get('model', '?')}, k={backbone.get('k', '?')} (identity {identity})"
