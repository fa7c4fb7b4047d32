"""A backbone folder, opened: its manifest, checked, and its ONNX graph, run by onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import codecs, formats
from edge_runtime.backbone_base import BackboneBase, parse_manifest
from edge_runtime.codecs import Codec
from edge_runtime.errors import DataError, FormatError, require
from edge_runtime.formats import field

Array = np.ndarray[Any, Any]

ORT_TYPES = {"float16": "tensor(float16)", "float32": "tensor(float)"}


@dataclass(frozen=True)
class Backbone(BackboneBase):
    """A backbone folder; the onnxruntime session is created at the first `run`."""

    folder: Path
    onnx: Path
    threads: int | None = None
    spin: bool = True

    @classmethod
    def open(cls, folder: Path, threads: int | None = None, *, spin: bool = True) -> Backbone:
        """Reads and checks a backbone folder; of the graph, only that its size is right.

        Args:
            threads: of onnxruntime; all processors by default.
            spin: whether idle threads keep their processor busy for a while, to go on sooner; not
                for a process that has other work, such as a server.

        Raises:
            FormatError: manifest or graph are missing, damaged, altered or of an unknown version.
        """
        manifest = formats.read_manifest(folder, formats.BACKBONE)
        path = folder / formats.MANIFEST
        facts = parse_manifest(manifest, path)
        onnx = _graph_file(folder, field(manifest, "onnx", dict, path), path)
        return cls(**facts, folder=folder, onnx=onnx, threads=threads, spin=spin)

    def verify(self) -> None:
        """Reads the whole graph file; FormatError where its sha256 is not the manifest's."""
        if formats.file_sha256(self.onnx) != self.reference["onnx_sha256"]:
            raise FormatError(
                f"{self.onnx}: sha256 is not that of {formats.MANIFEST}; it is damaged or altered, "
                f"export it again"
            )

    def encoded(
        self, images: Array, codec: Codec, names: Sequence[str] | None = None
    ) -> tuple[Array, Array | None]:
        """(stored, scale or None) of the features of uint8 images; raises what `run` raises."""
        features = codecs.pooled(codec, self.run(images, names), self.prefix_tokens)
        return codecs.encode(codec, features)

    def versions(self) -> dict[str, str]:
        """Of onnxruntime."""
        return {"onnxruntime": str(require("onnxruntime", extra="ort").__version__)}

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
        return self.in_true_units(features, names or [f"image {i}" for i in range(count)])

    @cached_property
    def _session(self) -> Any:
        onnxruntime = require("onnxruntime", extra="ort")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads or processors()
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4
        if not self.spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
