"""A backbone folder, opened: its manifest, checked, and its ONNX graph, run by onnxruntime."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import formats
from edge_runtime.codecs import FLOAT16_MAX
from edge_runtime.errors import DataError, FormatError, require
from edge_runtime.formats import field
from edge_runtime.preprocess import Preprocessing

Array = np.ndarray[Any, Any]

GRAPH_VERSION = 1  # changes when the meaning of our graphs does
ORT_TYPES = {"float16": "tensor(float16)", "float32": "tensor(float)"}


@dataclass(frozen=True)
class Backbone:
    """A backbone folder; the onnxruntime session is created at the first `run`."""

    folder: Path
    reference: formats.Json
    """What features say of where they come from: the entry `backbone` of their manifest."""
    preprocessing: Preprocessing
    tokens: int
    prefix_tokens: int
    embed_dim: int
    norm_eps: float
    dtype: str
    scale: float
    onnx: Path
    threads: int | None = None

    @classmethod
    def open(cls, folder: Path, threads: int | None = None) -> Backbone:
        """Reads and checks a backbone folder; of the graph, only that its size is right.

        Raises:
            FormatError: manifest or graph are missing, damaged, altered or of an unknown version.
        """
        manifest = formats.read_manifest(folder, formats.BACKBONE)
        path = folder / formats.MANIFEST
        output = field(manifest, "output", dict, path)
        dtype, scale = field(output, "dtype", str, path), formats.positive(output, "scale", path)
        if dtype not in ORT_TYPES or math.frexp(scale)[0] != 0.5:
            raise FormatError(
                f"{path}: 'output' must be float16 or float32 with a power of two as scale, "
                f"found {dtype} x {scale:g}"
            )
        tokens = formats.whole(manifest, "tokens", 1, path)
        prefix_tokens = formats.whole(manifest, "prefix_tokens", 0, path)
        if prefix_tokens > tokens:
            raise FormatError(f"{path}: {prefix_tokens} prefix tokens, but {tokens} tokens in all")
        onnx = field(manifest, "onnx", dict, path)
        return cls(
            folder=folder,
            reference=_reference(manifest, onnx, path),
            preprocessing=Preprocessing.from_json(
                field(manifest, "preprocessing", dict, path), path
            ),
            tokens=tokens,
            prefix_tokens=prefix_tokens,
            embed_dim=formats.whole(manifest, "embed_dim", 1, path),
            norm_eps=formats.positive(manifest, "norm_eps", path),
            dtype=dtype,
            scale=scale,
            onnx=_graph_file(folder, onnx, path),
            threads=threads,
        )

    def verify(self) -> None:
        """Reads the whole graph file; FormatError where its sha256 is not the manifest's."""
        if formats.file_sha256(self.onnx) != self.reference["onnx_sha256"]:
            raise FormatError(
                f"{self.onnx}: sha256 is not that of {formats.MANIFEST}; it is damaged or altered, "
                f"export it again"
            )

    def run(self, images: Array, names: Sequence[str] | None = None) -> Array:
        """Features, in true units: float32 [n, tokens, embed_dim].

        Args:
            images: uint8 [n, size, size, 3], as `preprocess.load_image` gives them.
            names: what to call each image in an error.

        Raises:
            DataError: images of another form, or features that are not finite or saturated.
            FormatError: the graph is damaged, or not the one that the manifest describes.
        """
        size, count = self.preprocessing.size, len(images)
        if images.dtype != np.uint8 or images.shape != (count, size, size, 3):
            raise DataError(
                f"{self.folder} takes uint8 images [n, {size}, {size}, 3], "
                f"got {images.dtype} {list(images.shape)}"
            )
        session = self._session
        try:
            (features,) = session.run(["features"], {"images": images})
        except Exception as error:  # onnxruntime's own classes, which share no public root
            raise DataError(
                f"onnxruntime failed on {count} images: {_first_line(error)}; if memory ran out, "
                f"choose a smaller batch size"
            ) from None
        expected = (count, self.tokens, self.embed_dim)
        if features.shape != expected:
            raise FormatError(
                f"{self.onnx}: features are {list(features.shape)}, {formats.MANIFEST} says "
                f"{list(expected)}; export it again"
            )
        self._check_finite(features, names or [f"image {i}" for i in range(count)])
        true: Array = features.astype(np.float32)
        true *= np.float32(self.scale)
        return true

    def _check_finite(self, features: Array, names: Sequence[str]) -> None:
        """Names the first image with NaN, infinite or saturated features [n, tokens, dim]."""
        for name, feature in zip(names, features):
            if np.isnan(feature).any():
                raise DataError(
                    f"{name}: the backbone gives NaN for this image; remove it or check the weights"
                )
            if self.dtype == "float16" and np.abs(feature).max() >= FLOAT16_MAX:
                raise DataError(
                    f"{name}: features exceed what float16 holds; export the backbone again with "
                    f"`--dtype float32`"
                )
            if np.isinf(feature).any():
                raise DataError(
                    f"{name}: the backbone gives infinite features for this image; remove it, or "
                    f"check the weights"
                )

    @cached_property
    def _session(self) -> Any:
        onnxruntime = require("onnxruntime", extra="ort")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads or _processors()
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(
                str(self.onnx), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise FormatError(
                f"{self.onnx}: onnxruntime cannot load it ({_first_line(error)}); export it again"
            ) from None
        found = [(v.name, v.type) for v in (*session.get_inputs(), *session.get_outputs())]
        expected = [("images", "tensor(uint8)"), ("features", ORT_TYPES[self.dtype])]
        if found != expected:
            raise FormatError(
                f"{self.onnx}: expected inputs and outputs {expected}, found {found}; "
                f"export it again"
            )
        return session


def _reference(manifest: formats.Json, onnx: formats.Json, path: Path) -> formats.Json:
    """What identifies the backbone, for those who keep its features; checks the identity."""
    version = field(manifest, "graph_version", int, path)
    if version != GRAPH_VERSION:
        raise FormatError(
            f"{path}: graph version {version} is not known here (this edgetune knows "
            f"{GRAPH_VERSION}); use the edgetune that wrote it, or a newer one"
        )
    parts = {
        "weights_sha256": field(field(manifest, "weights", dict, path), "sha256", str, path),
        "k": field(manifest, "k", int, path),
        "preprocessing": field(manifest, "preprocessing", dict, path),
        "graph_version": version,
    }
    identity = field(manifest, "identity", str, path)
    if identity != formats.identity(parts):
        raise FormatError(f"{path}: its entries do not give its identity; it was altered")
    return {
        **parts,
        "identity": identity,
        "model": field(manifest, "model", str, path),
        "onnx_sha256": field(onnx, "sha256", str, path),
    }


def _graph_file(folder: Path, onnx: formats.Json, path: Path) -> Path:
    """The graph's path, with its size checked."""
    name: str = field(onnx, "file", str, path)
    size: int = field(onnx, "bytes", int, path)
    if Path(name).name != name:
        raise FormatError(f"{path}: 'onnx.file' must be a plain file name, found {name!r}")
    graph = folder / name
    if not graph.is_file():
        raise FormatError(f"{graph} is missing; copy the whole folder, or export it again")
    found = graph.stat().st_size
    if found != size:
        raise FormatError(
            f"{graph}: {formats.MANIFEST} says {size} bytes, the file has {found}; it is truncated "
            f"or altered, export it again"
        )
    return graph


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
