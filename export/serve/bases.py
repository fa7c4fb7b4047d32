"""Bases that a server was given: of an adaptor that was brought here, or of a feature folder."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.basis import Basis
from edge_runtime.errors import MismatchError
from edge_runtime.features import FeatureFolder
from edge_runtime.runtimes import open_adaptor


def basis_of(path: Path) -> Basis:
    """The basis of an adaptor file or a feature folder; MismatchError where it has none."""
    basis = FeatureFolder.open(path).basis if path.is_dir() else open_adaptor(path).basis
    if basis is None:
        raise MismatchError(f"{path} is in no basis; leave out --basis for it")
    return basis
