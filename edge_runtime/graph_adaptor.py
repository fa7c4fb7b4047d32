"""An adaptor that another runtime computes: a file that `edgetune export-adaptor` wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import formats
from edge_runtime.basis import Basis, fitting
from edge_runtime.classifier import Classifier, parse_entries
from edge_runtime.codecs import CODECS, Codec, encode
from edge_runtime.errors import FormatError
from edge_runtime.feature_split import FeatureSplit
from edge_runtime.forward import default_tile
from edge_runtime.graph_runners import (
    FEATURES,
    PROBABILITIES,
    REMEDY,
    SCALE,
    Ends,
    OnnxRunner,
    Runner,
    TfliteRunner,
)
from edge_runtime.metrics import Evaluation, evaluation_of
from edge_runtime.predictor import check_finite, check_shape
from edge_runtime.sources import ArrayFeatures, FeatureSource

Array = np.ndarray[Any, Any]

RUNNERS: dict[str, Callable[[Path], Runner]] = {"onnxruntime": OnnxRunner, "tflite": TfliteRunner}


class GraphAdaptor(Classifier):
    """Takes features in the codec of its graph: stored ones as they are, others encoded first."""

    def __init__(self, path: str | Path, runtime: str):
        """Opens a graph.

        Args:
            runtime: a key of RUNNERS.

        Raises:
            FormatError: not a graph of ours, or damaged.
            MissingExtraError: the runtime is not installed.
        """
        path = Path(path)
        self._runner: Runner = RUNNERS[runtime](path)
        metadata = self._runner.metadata
        entries = parse_entries(metadata, path)
        self.config, self.classes = entries["config"], entries["classes"]
        self.backbone, self.features = entries["backbone"], entries["features"]
        self.training = entries["training"]
        self.basis = None
        if "basis" in metadata:
            basis = Basis.from_json(formats.field(metadata, "basis", dict, path), path)
            self.basis = fitting(basis, self.config, path)
        codec = metadata.get("codec")
        if codec not in CODECS:
            raise FormatError(f"{path}: codec {codec!r} is not known here; use a newer edgetune")
        self.codec: Codec = CODECS[codec]
        self.quantize = str(metadata.get("quantize"))
        if self._runner.ends != self._expected_ends():
            raise FormatError(
                f"{path}: its inputs and outputs are not those of its metadata; {REMEDY}"
            )

    def predict_proba(self, features: Array | FeatureSource) -> Array:
        source = ArrayFeatures(features) if isinstance(features, np.ndarray) else features
        out = np.empty((len(source.labels), self.config.classes), np.float32)
        for part, probabilities in self._run(source):
            out[part] = probabilities
        return out

    def evaluate(self, source: FeatureSource) -> Evaluation:
        predicted = self.predict_proba(source).argmax(axis=1)
        return evaluation_of(source.labels, predicted, self.config.classes)

    def predict_stored(self, stored: Array, scale: Array | None) -> Array:
        """Probabilities (n, classes) of features (n, tokens, dim) as `codecs.encode` gives them.

        Raises:
            DataError: a probability is not finite, or the runtime failed.
        """
        inputs = {FEATURES: stored} if scale is None else {FEATURES: stored, SCALE: scale}
        probabilities = self._runner.run(inputs)
        check_finite(probabilities)
        return probabilities

    def _run(self, source: FeatureSource) -> Iterator[tuple[slice, Array]]:
        """(rows, their probabilities), a few at a time."""
        check_shape(self.config, source)
        rows, tile = len(source.labels), default_tile(self.config.tokens)
        z = np.empty((tile, self.config.tokens, self.config.embed_dim), np.float32)
        norms = np.empty(z.shape[:2], np.float32)
        scratch = np.empty(source.scratch_bytes(tile), np.uint8)
        for start in range(0, rows, tile):
            part = slice(start, min(start + tile, rows))
            wanted, count = np.arange(part.start, part.stop), part.stop - part.start
            if isinstance(source, FeatureSplit) and source.folder.codec == self.codec:
                stored, scale = source.read_stored(wanted, norms[:count], scratch)
            else:
                source.read(wanted, z[:count], norms[:count], scratch)
                stored, scale = encode(self.codec, z[:count])
            yield part, self.predict_stored(stored, scale)

    def _expected_ends(self) -> Ends:
        config = self.config
        ends = {
            FEATURES: (self.codec.dtype.name, [config.tokens, config.embed_dim]),
            PROBABILITIES: ("float32", [config.classes]),
        }
        if self.codec.scale_axes:
            ends[SCALE] = ("float32", [config.tokens][: self.codec.scale_axes - 1])
        return ends
