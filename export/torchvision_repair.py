"""timm beside a torchvision that was built for another torch.

timm pins no torchvision, so pip may bring a CUDA build beside a CPU torch. `import torchvision`
then stops at `operator torchvision::nms does not exist`, and `import timm` with it. Neither is
ever called here: it is enough to declare them.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from edge_runtime.errors import require

EXTRA = "export"
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[Any] = []  # an operator lives as long as the library that defines it


def import_timm() -> ModuleType:
    """Imports timm, repairing a torchvision that does not fit torch; a healthy one is left alone.

    Raises:
        MissingExtraError: torch or timm is not installed.
    """
    torch = require("torch", extra=EXTRA)
    try:
        return require("timm", extra=EXTRA)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    purge("torchvision", "timm")
    define_operators(torch)
    return require("timm", extra=EXTRA)


def purge(*packages: str) -> None:
    """Forgets half-imported packages, so that the next import starts afresh."""
    for name in [name for name in sys.modules if name.split(".")[0] in packages]:
        del sys.modules[name]
    importlib.invalidate_caches()


def define_operators(torch: Any) -> None:
    """Declares the torchvision operators that are missing, without an implementation."""
    for schema in SCHEMAS:
        if hasattr(torch.ops.torchvision, schema.split("(")[0]):
            continue
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define(schema)
        _libraries.append(library)
