"""A trained adaptor: load it, ask it, save it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import formats, tensorfile
from edge_runtime.basis import Basis, checked, fitting, named
from edge_runtime.classifier import ENTRIES, Classifier, parse_entries
from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import DataError, FormatError, MismatchError
from edge_runtime.metrics import Evaluation
from edge_runtime.predictor import Predictor, check_shape
from edge_runtime.program import Workspace
from edge_runtime.sources import ArrayFeatures, FeatureSource
from edge_runtime.weights import FusedWeights

Array = np.ndarray[Any, Any]

BASIS = "basis"  # the tensor of an adaptor file that is no parameter


@dataclass
class Adaptor(Classifier):
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
    basis: Basis | None = None
    _predictor: Predictor | None = field(default=None, repr=False, compare=False)

    def predict_logits(self, features: Array | FeatureSource) -> Array:
        """Logits (rows, classes) of features (rows, tokens, dim) in true units, or of a source; of
        kind segmentation (rows, classes, side, side), for every patch token."""
        source = ArrayFeatures(features) if isinstance(features, np.ndarray) else features
        return self._ready(source).logits(source)

    def predict_proba(self, features: Array | FeatureSource) -> Array:
        """Probabilities, of the shape of the logits; they sum to 1 over the classes."""
        return softmax_rows(self.predict_logits(features))

    @property
    def mask_size(self) -> int:
        """Pixels along a side of what the backbone sees: its crop, which masks are of."""
        from edge_runtime.masks import mask_size  # not in memory where it is not used

        where = Path("the adaptor's backbone")
        preprocessing = formats.field(self.backbone, "preprocessing", dict, where)
        return mask_size(preprocessing, where)

    def predict_masks(self, features: Array | FeatureSource) -> Array:
        """Of kind segmentation the class of every pixel of the crop, uint8 (rows, size, size)."""
        from edge_runtime.pixels import Pixels

        if not self.config.dense:
            raise MismatchError(f"an adaptor of kind {self.config.kind} predicts no masks")
        pixels = Pixels(self.config, self.mask_size, Workspace(np.float32))
        return np.stack([pixels.mask(grids) for grids in self.predict_logits(features)])

    def evaluate(self, source: FeatureSource) -> Evaluation:
        """Accuracy and confusion on labelled features; of kind segmentation over pixels.

        Raises:
            MismatchError: features of another shape, or without the masks that this needs.
        """
        return self._ready(source).evaluate(source)

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
            **{key: _text(content) for key, content in self.entries().items()},
        }
        ordered = {name: self.parameters[name] for name in self.config.parameter_shapes()}
        if self.basis is not None:
            metadata["basis"] = self.basis.identity
            ordered[BASIS] = self.basis.matrix
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
        content: dict[str, Any] = {}
        for key in ENTRIES:
            try:
                content[key] = formats.loads(metadata[key])
            except (KeyError, ValueError, RecursionError):
                content[key] = None  # refused as missing or damaged
        parts = parse_entries(content, path)
        if BASIS in tensors:
            basis = named(checked(tensors.pop(BASIS), path), metadata.get("basis"), path)
            parts["basis"] = fitting(basis, parts["config"], path)
        _check_tensors(parts["config"], tensors, path)
        return cls(parameters=tensors, **parts)

    def fused(self, workspace: Workspace) -> FusedWeights:
        """The weights as the forward pass wants them, in buffers of `workspace`."""
        weights = FusedWeights(self.config, self.parameters, workspace)
        weights.refresh()
        return weights

    def _ready(self, source: FeatureSource) -> Predictor:
        size = getattr(source, "mask_size", 0) if self.config.dense else 0
        found = self._predictor
        if found is None or (size and (found.pixels is None or found.pixels.size != size)):
            check_shape(self.config, source)  # before buffers of the adaptor's shape are made
            workspace = Workspace(np.float32)
            found = self._predictor = Predictor(self.fused(workspace), workspace, mask_size=size)
        return found


def softmax_rows(logits: Array) -> Array:
    """Turns logits (rows, classes, ...) into probabilities, in place."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def top_k(
    probabilities: Sequence[float] | Array, classes: Sequence[str], k: int
) -> list[tuple[str, float]]:
    """The k most probable classes, best first, with their probabilities."""
    order = np.argsort(-np.asarray(probabilities), kind="stable")[:k]
    return [(classes[i], float(probabilities[i])) for i in order]


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
