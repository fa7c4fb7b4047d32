"""`edgetune serve` with a constant in place of the backbone and the codec: the protocol alone."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from edge_runtime.cli import main
from export.serve import app
from export.serve.model import ServedModel

FEATURES = {
    "features_float16": np.full((1, 197, 768), 1.5, np.float16),
    "scale_float16": np.ones(1, np.float32),
}


def features(model: ServedModel, images: Any) -> Any:
    return images


def outputs(images: Any, prefix_tokens: int, asked: Any) -> Any:
    return FEATURES


ServedModel.run = features  # type: ignore[method-assign]
app.serving.encode_outputs = outputs

if __name__ == "__main__":
    main(sys.argv[1:], prog_name="edgetune")
