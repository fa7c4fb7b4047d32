"""edgetune on the device: formats, features, the adaptor's forward pass, the command line.

    >>> from edge_runtime import Adaptor
    >>> Adaptor.load("adaptor.safetensors").predict_proba(features)  # rows x tokens x dim

Names are loaded when they are first used, so that the command line can set BLAS threads before
numpy loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_runtime.adaptor import Adaptor as Adaptor
    from edge_runtime.config import AdaptorConfig as AdaptorConfig
    from edge_runtime.errors import EdgeError as EdgeError
    from edge_runtime.features import FeatureFolder as FeatureFolder
    from edge_runtime.sources import ArrayFeatures as ArrayFeatures

__version__ = "0.1.0"

_HOMES = {
    "Adaptor": "edge_runtime.adaptor",
    "AdaptorConfig": "edge_runtime.config",
    "ArrayFeatures": "edge_runtime.sources",
    "EdgeError": "edge_runtime.errors",
    "FeatureFolder": "edge_runtime.features",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edge_runtime' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
