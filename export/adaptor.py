"""From an adaptor file to a graph for another runtime: write, verify, publish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import __version__, atomic, formats
from edge_runtime.adaptor import Adaptor
from edge_runtime.codecs import PLAIN, Codec, decode, encode
from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import ConfigError, ExportError
from edge_runtime.features import FeatureFolder
from edge_runtime.graph_adaptor import GraphAdaptor
from export.adaptor_graph import Writer, emit_adaptor
from export.onnx_writer import OnnxWriter
from export.quantize import rounded
from export.tflite_writer import TfliteWriter

Array = np.ndarray[Any, Any]

WRITERS: dict[str, Callable[[str], Writer]] = {"onnx": OnnxWriter, "tflite": TfliteWriter}
RUNTIMES = {"onnx": "onnxruntime", "tflite": "tflite"}
GRAPH_CODECS = ("float32", "float16", "int8")
BATCHES = (1, 2, 5)
LIMIT = 1e-4  # between probabilities of the graph and of numpy, on the same weights


@dataclass(frozen=True)
class Accuracy:
    """Of the adaptor in numpy, and of its graph, on one split of a feature folder."""

    split: str
    images: int
    numpy: float
    graph: float


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from the adaptor."""

    codec: str
    bytes: int
    difference: float
    """Largest between probabilities of the graph and of numpy with the weights as stored."""
    quantization_change: float
    """Largest change of a probability by storing the weights so, in numpy."""
    accuracy: Accuracy | None


def export_adaptor(
    adaptor: Adaptor,
    out: Path,
    kind: str,
    *,
    quantize: str = "none",
    codec: str | None = None,
    features: FeatureFolder | None = None,
    split: str = "test",
    force: bool = False,
) -> Exported:
    """Writes the graph `out`, which gets its name once it computes what numpy does.

    Args:
        kind: `onnx` or `tflite`. quantize: one of `quantize.QUANTIZE`.
        codec: what the graph takes; by default what the adaptor was trained on.
        features: where to measure accuracy, on `split`.

    Raises:
        OutputExistsError, ConfigError: `out` cannot be written, or such a codec is not known.
        MismatchError: `features` come from another backbone, or have other classes.
        ExportError: the graph differs from numpy.
    """
    atomic.refuse_unwritable(out, force=force)
    if adaptor.config.dense:
        raise ConfigError(
            "adaptors of kind segmentation are computed by numpy alone so far; give the adaptor "
            "file itself to predict"
        )
    chosen = codec_of(adaptor, codec)
    if features is not None:
        adaptor.labelled(features, split)
    writer = WRITERS[kind](quantize)
    emit_adaptor(adaptor.config, adaptor.parameters, chosen, writer)
    data = writer.finish(description(adaptor, chosen, quantize))
    parameters = rounded(adaptor.parameters, quantize, len(adaptor.config.pools))
    restored = Adaptor(adaptor.config, parameters, adaptor.classes, adaptor.backbone)
    with atomic.write_file(out) as file:
        file.write(data)
        file.flush()
        graph = GraphAdaptor(file.name, RUNTIMES[kind])
        difference, change = 0.0, 0.0
        for batch in sample_features(adaptor.config):
            stored, scale, decoded = through(chosen, batch)
            found, expected = graph.predict_stored(stored, scale), restored.predict_proba(decoded)
            difference = max(difference, largest_difference(found, expected))
            original = adaptor.predict_proba(decoded)
            change = max(change, largest_difference(expected, original))
        if not difference <= LIMIT:
            raise ExportError(
                f"{out} was not written: its probabilities differ from numpy's by "
                f"{difference:.1e}, at most {LIMIT:.0e} is allowed; these weights are too large "
                f"for float32, train again with a lower --lr"
            )
        accuracy = None if features is None else compare(adaptor, graph, features, split)
    return Exported(chosen.name, len(data), difference, change, accuracy)


def codec_of(adaptor: Adaptor, name: str | None) -> Codec:
    """The codec asked for; else the one that the adaptor was trained on, if graphs can have it.

    Pooling is no part of a graph: it takes the tokens that the adaptor takes.
    """
    if name is None:
        trained = adaptor.trained_codec.plain
        return PLAIN[trained if trained in GRAPH_CODECS else "float32"]
    if name not in GRAPH_CODECS:
        raise ConfigError(
            f"a graph cannot take codec {name!r}; choose --codec {', '.join(GRAPH_CODECS)}"
        )
    return PLAIN[name]


def description(adaptor: Adaptor, codec: Codec, quantize: str) -> formats.Json:
    """What the graph says of itself: docs/formats.md."""
    return {
        "format": formats.GRAPH,
        "version": formats.VERSION,
        **adaptor.entries(),
        **({} if adaptor.basis is None else {"basis": adaptor.basis.to_json()}),
        "codec": codec.name,
        "quantize": quantize,
        "edgetune": __version__,
    }


def sample_features(config: AdaptorConfig) -> list[Array]:
    """Seeded batches of 1, 2 and 5 feature maps, of the training features' size.

    As a transformer's, they have a few channels that are far larger than the others.
    """
    rng = np.random.default_rng(0)
    size = np.exp(rng.standard_normal(config.embed_dim))
    size *= config.input_rms / np.sqrt(np.mean(np.square(size)))
    shape = (config.tokens, config.embed_dim)
    return [(rng.standard_normal((n, *shape)) * size).astype(np.float32) for n in BATCHES]


def through(codec: Codec, features: Array) -> tuple[Array, Array | None, Array]:
    """(stored, scale or None, decoded) of feature maps."""
    stored, scale = encode(codec, features)
    decoded = np.empty_like(features)
    decode(codec, stored, scale, decoded)
    return stored, scale, decoded


def largest_difference(found: Array, expected: Array) -> float:
    """Over all entries."""
    return float(np.abs(found - expected).max())


def compare(adaptor: Adaptor, graph: GraphAdaptor, features: FeatureFolder, split: str) -> Accuracy:
    """Accuracy of both on one split."""
    rows = adaptor.labelled(features, split)
    ours, theirs = adaptor.evaluate(rows), graph.evaluate(rows)
    return Accuracy(split, len(rows.labels), ours.accuracy, theirs.accuracy)
