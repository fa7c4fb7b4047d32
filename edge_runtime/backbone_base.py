"""What every backbone is, wherever it runs: the facts of its manifest, and features on demand."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import formats
from edge_runtime.codecs import FLOAT16_MAX, Codec
from edge_runtime.errors import DataError, FormatError
from edge_runtime.formats import field
from edge_runtime.preprocess import Preprocessing

Array = np.ndarray[Any, Any]

GRAPH_VERSION = 1  # changes when the meaning of our graphs does
DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class BackboneBase(ABC):
    """The facts; a subclass computes, here (`Backbone`) or on a server (`RemoteBackbone`)."""

    reference: formats.Json
    """What features say of where they come from: the entry `backbone` of their manifest."""
    preprocessing: Preprocessing
    tokens: int
    prefix_tokens: int
    embed_dim: int
    norm_eps: float
    dtype: str
    scale: float

    @abstractmethod
    def verify(self) -> None:
        """Checks, before much is computed, that the backbone is the one of its manifest."""

    @abstractmethod
    def encoded(
        self, images: Array, codec: Codec, names: Sequence[str] | None = None
    ) -> tuple[Array, Array | None]:
        """(stored, scale or None) of uint8 images [n, size, size, 3], as `codecs.encode` gives."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of the packages that turn pixels into features."""

    def in_true_units(self, features: Array, names: Sequence[str]) -> Array:
        """What the graph computed, [n, tokens, embed_dim] of its dtype, as float32, scaled.

        Raises:
            DataError: names the first image with NaN, infinite or saturated features.
        """
        for name, feature in zip(names, features):
            largest = max(feature.max(), -feature.min())  # NaN passes through
            if np.isnan(largest):
                raise DataError(
                    f"{name}: the backbone gives NaN for this image; remove it or check the weights"
                )
            if self.dtype == "float16" and largest >= FLOAT16_MAX:
                raise DataError(
                    f"{name}: features exceed what float16 holds; export the backbone again with "
                    f"`--dtype float32`"
                )
            if np.isinf(largest):
                raise DataError(
                    f"{name}: the backbone gives infinite features for this image; remove it, or "
                    f"check the weights"
                )
        true: Array = features.astype(np.float32, copy=False)
        if self.scale != 1:
            true = true * np.float32(self.scale)
        return true


def parse_manifest(manifest: formats.Json, path: Path) -> dict[str, Any]:
    """The fields of BackboneBase from a backbone's manifest; `path` names it in messages.

    Raises:
        FormatError: damaged, altered, or of an unknown version.
    """
    output = field(manifest, "output", dict, path)
    dtype, scale = field(output, "dtype", str, path), formats.positive(output, "scale", path)
    if dtype not in DTYPES or math.frexp(scale)[0] != 0.5:
        raise FormatError(
            f"{path}: 'output' must be float16 or float32 with a power of two as scale, "
            f"found {dtype} x {scale:g}"
        )
    tokens = formats.whole(manifest, "tokens", 1, path)
    prefix_tokens = formats.whole(manifest, "prefix_tokens", 0, path)
    if prefix_tokens > tokens:
        raise FormatError(f"{path}: {prefix_tokens} prefix tokens, but {tokens} tokens in all")
    return {
        "reference": _reference(manifest, path),
        "preprocessing": Preprocessing.from_json(
            field(manifest, "preprocessing", dict, path), path
        ),
        "tokens": tokens,
        "prefix_tokens": prefix_tokens,
        "embed_dim": formats.whole(manifest, "embed_dim", 1, path),
        "norm_eps": formats.positive(manifest, "norm_eps", path),
        "dtype": dtype,
        "scale": scale,
    }


def _reference(manifest: formats.Json, path: Path) -> formats.Json:
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
        "onnx_sha256": field(field(manifest, "onnx", dict, path), "sha256", str, path),
    }
