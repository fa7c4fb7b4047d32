"""A trained adaptor: load it, ask it, save it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import formats, tensorfile
from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import ConfigError, DataError, FormatError, MismatchError
from edge_runtime.metrics import Evaluation
from edge_runtime.predictor import Predictor, check_shape
from edge_runtime.program import Workspace
from edge_runtime.sources import ArrayFeatures, FeatureSource
from edge_runtime.weights import FusedWeights

Array = np.ndarray[Any, Any]

IDENTITY_PARTS = ("weights_sha256", "k", "preprocessing", "graph_version")


@dataclass
class Adaptor:
    """The device's trained module, with all that prediction needs.

    `parameters` are float32 arrays, shapes as AdaptorConfig.parameter_shapes says. `backbone`,
    `features` and `training` are provenance, as docs/formats.md describes them.
    """

    config: AdaptorConfig
    parameters: dict[str, Array]
    classes: list[str]
    backbone: formats.Json
    features: formats.Json = field(default_factory=dict)
    training: formats.Json = field(default_factory=dict)
    _predictor: Predictor | None = field(default=None, repr=False, compare=False)

    def predict_logits(self, features: Array | FeatureSource) -> Array:
        """Logits (rows, classes) of features (rows, tokens, dim) in true units, or of a source."""
        source = ArrayFeatures(features) if isinstance(features, np.ndarray) else features
        return self._ready(source).logits(source)

    def predict_proba(self, features: Array | FeatureSource) -> Array:
        """Probabilities (rows, classes); rows sum to 1."""
        logits = self.predict_logits(features)
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, logits)
        logits /= logits.sum(axis=1, keepdims=True)
        return logits

    def evaluate(self, source: FeatureSource) -> Evaluation:
        """Accuracy and confusion on labelled features."""
        return self._ready(source).evaluate(source)

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

    def save(self, path: str | Path) -> None:
        """Writes the adaptor file, atomically.

        Raises:
            DataError: a parameter is not finite.
        """
        for name, array in self.parameters.items():
            if not np.isfinite(array).all():
                raise DataError(
                    f"{path} was not written: {name} holds NaN or infinite entries; train again "
                    f"with a lower --lr"
                )
        metadata = {
            "format": formats.ADAPTOR,
            "version": str(formats.VERSION),
            "config": _text(self.config.to_json()),
            "classes": _text(self.classes),
            "backbone": _text(self.backbone),
            "features": _text(self.features),
            "training": _text(self.training),
        }
        ordered = {name: self.parameters[name] for name in self.config.parameter_shapes()}
        tensorfile.write(Path(path), ordered, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Adaptor:
        """Reads an adaptor file.

        Raises:
            FormatError: not an adaptor file, damaged, or of a version not known here.
        """
        path = Path(path)
        tensors, metadata = tensorfile.read(path)
        formats.check_version(metadata, formats.ADAPTOR, path)
        parts: dict[str, Any] = {}
        for key in ("config", "classes", "backbone", "features", "training"):
            try:
                parts[key] = formats.loads(metadata[key])
            except (KeyError, ValueError, RecursionError):
                raise FormatError(f"{path}: metadata entry {key!r} is missing or damaged") from None
            if not isinstance(parts[key], list if key == "classes" else dict):
                raise FormatError(f"{path}: metadata entry {key!r} is damaged")
        try:
            config = AdaptorConfig.from_json(parts["config"])
        except ConfigError as error:
            raise FormatError(f"{path}: {error}") from None
        _check_tensors(config, tensors, path)
        classes = [str(name) for name in parts["classes"]]
        if len(classes) != config.classes:
            raise FormatError(f"{path}: {config.classes} classes need as many names")
        return cls(
            config, tensors, classes, parts["backbone"], parts["features"], parts["training"]
        )

    def _ready(self, source: FeatureSource) -> Predictor:
        if self._predictor is None:
            check_shape(self.config, source)  # before buffers of the adaptor's shape are made
            workspace = Workspace(np.float32)
            weights = FusedWeights(self.config, self.parameters, workspace)
            weights.refresh()
            self._predictor = Predictor(weights, workspace)
        return self._predictor


def top_k(
    probabilities: Sequence[float] | Array, classes: Sequence[str], k: int
) -> list[tuple[str, float]]:
    """The k most probable classes, best first, with their probabilities."""
    order = np.argsort(-np.asarray(probabilities), kind="stable")[:k]
    return [(classes[i], float(probabilities[i])) for i in order]


def describe(backbone: Mapping[str, Any]) -> str:
    """A backbone in a few words: name, k, and the start of its identity."""
    identity = str(backbone.get("identity", "?"))[:12]
    return f"{backbone.get('model', '?')}, k={backbone.get('k', '?')} (identity {identity})"


def _text(content: Any) -> str:
    return formats.canonical(content).decode()


def _check_tensors(config: AdaptorConfig, tensors: dict[str, Array], path: Path) -> None:
    expected = config.parameter_shapes()
    found = {name: a.shape for name, a in tensors.items() if a.dtype == np.float32}
    if found != expected or len(tensors) != len(expected):
        raise FormatError(f"{path}: its tensors are not those of its configuration")
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise FormatError(f"{path}: tensor {name} holds NaN or infinite entries")
