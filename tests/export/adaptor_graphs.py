"""Adaptors of every kind, for tests that write and run their graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.adaptor import Adaptor
from tests.feature_folders import BACKBONE
from tests.problems import config_of, random_parameters

KINDS: dict[str, dict[str, Any]] = {
    "mean": {},
    "cls": {"pool": "cls"},
    "cls+mean": {"pool": "cls+mean"},
    "two heads": {"heads": 2},
    "no prefix tokens": {"prefix_tokens": 0},
    "one block": {"blocks": 1},
    "square matrices": {"embed_dim": 12},
    "linear": {"kind": "linear"},
}
NEEDED = {
    "onnx": ("onnx", "onnxruntime"),
    "tflite": ("ai_edge_litert", "flatbuffers"),
}


def adaptor_of(**changes: Any) -> Adaptor:
    """An adaptor with random parameters, trained on float16 features as it says."""
    config = config_of(**changes)
    names = [f"class-{index}" for index in range(config.classes)]
    parameters = random_parameters(config, np.float32)
    features = {"identity": "12" * 32, "codec": "float16"}
    return Adaptor(config, parameters, names, dict(BACKBONE), features, {"epochs": 3})


def need(kind: str) -> None:
    """Skips a test where what writes or runs this kind of graph is not installed."""
    for module in NEEDED[kind]:
        pytest.importorskip(module)
