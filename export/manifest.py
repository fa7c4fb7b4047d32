"""manifest.json of a backbone folder, as docs/formats.md has it."""

from __future__ import annotations

import importlib
from typing import Any

from edge_runtime import __version__, formats
from edge_runtime.backbone_base import GRAPH_VERSION
from edge_runtime.preprocess import Preprocessing
from export.models import Loaded
from export.taps import Taps

ONNX_FILE = "backbone.onnx"


def build(
    loaded: Loaded,
    taps: Taps,
    k: int,
    preprocessing: Preprocessing,
    weights_sha256: str,
    output: dict[str, Any],
    onnx: dict[str, Any],
    verified: dict[str, Any],
) -> formats.Json:
    """Puts together what the manifest says; no time, no host, no path."""
    parts = {
        "weights_sha256": weights_sha256,
        "k": k,
        "preprocessing": preprocessing.to_json(),
        "graph_version": GRAPH_VERSION,
    }
    weights = {"sha256": weights_sha256, "source": loaded.source}
    if loaded.checkpoint_sha256 is not None:
        weights["checkpoint_sha256"] = loaded.checkpoint_sha256
    return {
        "format": formats.BACKBONE,
        "version": formats.VERSION,
        "identity": formats.identity(parts),
        "model": loaded.name,
        "weights": weights,
        "k": k,
        "taps": list(taps.names[:k]),
        "hierarchical": taps.hierarchical,
        "tokens": taps.tokens,
        "prefix_tokens": taps.prefix_tokens,
        "embed_dim": taps.embed_dim,
        "norm_eps": taps.norm_eps,
        "preprocessing": parts["preprocessing"],
        "graph_version": GRAPH_VERSION,
        "output": output,
        "onnx": onnx,
        "verified": verified,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of edgetune and the packages that made the graph."""
    names = ("torch", "timm", "onnx", "onnxruntime")
    found = {name: str(importlib.import_module(name).__version__) for name in names}
    return {"edgetune": __version__, **found}
