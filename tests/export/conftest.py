"""Shared by the export tests: a small random model, its weights on disk, two exports of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NEEDED = ("torch", "timm", "onnx", "onnxscript", "onnxruntime")
if any(importlib.util.find_spec(name) is None for name in NEEDED):
    collect_ignore_glob = ["test_*.py"]  # a device install has no server packages

MODEL, BLOCKS = "test_vit", 6


@pytest.fixture(scope="session")
def timm() -> Any:
    from export.torchvision_repair import import_timm

    return import_timm()


@pytest.fixture(scope="session")
def create(timm: Any) -> Callable[..., Any]:
    """`create(name, **options)`: a timm model with seeded random weights, as `load_model` does."""
    import torch

    def build(name: str, **options: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return timm.create_model(name, **options).eval().requires_grad_(False)

    return build


@pytest.fixture(scope="session")
def checkpoint(create: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same random weights that `--random-weights` gives MODEL, in a file."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("checkpoint") / "weights.safetensors"
    save_file(create(MODEL).state_dict(), str(path))
    return path


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone folder: MODEL, random, all blocks."""
    from export.backbone import export_backbone

    out = tmp_path_factory.mktemp("whole") / "backbone"
    export_backbone(MODEL, out, random_weights=True)
    return out


@pytest.fixture(scope="session")
def shorter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, summed up to the block before the last."""
    from export.backbone import export_backbone

    out = tmp_path_factory.mktemp("shorter") / "backbone"
    export_backbone(MODEL, out, random_weights=True, k=BLOCKS - 1)
    return out
