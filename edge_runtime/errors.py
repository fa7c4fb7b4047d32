"""Every error that edgetune raises on purpose.

    EdgeError                 the root; the command line prints it in one line and exits with 1
    ├── ConfigError           options that cannot be used together, or with this data
    ├── DataError             images or features that cannot be used
    ├── FormatError           a file that is not what it should be
    ├── MismatchError         files that are sound but do not belong together
    ├── OutputExistsError     the output is there already and `--force` was not given
    ├── BudgetError           a memory budget that cannot be, or was not, kept
    ├── ProtocolError         a message that is not of the Open Inference Protocol
    ├── ServerError           a server that cannot be reached, refuses, or answers nonsense
    ├── MissingExtraError     an optional package is not installed
    └── ExportError           a backbone or an adaptor that cannot be exported faithfully

A message says what was expected, what arrived, and what to do.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class EdgeError(Exception):
    """Root of all errors raised on purpose."""


class ConfigError(EdgeError):
    """Options that cannot be used together, or with this data."""


class DataError(EdgeError):
    """Images or features that cannot be used."""


class FormatError(EdgeError):
    """A file that is not what it should be."""


class MismatchError(EdgeError):
    """Files that are sound but do not belong together."""


class OutputExistsError(EdgeError):
    """The output is there already."""


class BudgetError(EdgeError):
    """A memory budget that cannot be, or was not, kept."""


class ProtocolError(EdgeError):
    """A message that is not of the Open Inference Protocol."""


class ServerError(EdgeError):
    """A server that cannot be reached, refuses, or answers nonsense."""


class MissingExtraError(EdgeError):
    """An optional package is not installed."""


class ExportError(EdgeError):
    """A backbone or an adaptor that cannot be exported faithfully."""


def require(module: str, *, extra: str) -> ModuleType:
    """Imports an optional module, or says which extra of edgetune brings it."""
    package = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != package:
            raise
        name = {"PIL": "Pillow", "ai_edge_litert": "ai-edge-litert"}.get(package, package)
        raise MissingExtraError(
            f"this needs {name}, which is not installed: pip install 'edgetune[{extra}]'"
        ) from None
