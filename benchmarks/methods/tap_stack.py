"""A timm model that gives all its taps, where edgetune's graph gives their sum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge_runtime.backbone import Backbone
from export.models import load_model
from export.tap_sum import to_tokens
from export.taps import drive, find_taps, hooked

Array = np.ndarray[Any, Any]


class TapStack:
    """uint8 (B, S, S, 3) -> float32 (B, taps, tokens, dim): z_0, and the output of each block.

    Args:
        name, checkpoint: the timm model and its weights, as for `edgetune export`.
        backbone: the folder exported from them; for its preprocessing.
    """

    def __init__(self, name: str, checkpoint: Path | None, backbone: Path):
        loaded = load_model(name, checkpoint)
        preprocessing = Backbone.open(backbone).preprocessing
        self.model = loaded.model
        self.taps = find_taps(loaded.name, self.model, preprocessing.size)
        self.prefix_tokens = self.taps.prefix_tokens
        self.mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1)
        self.std = torch.tensor(preprocessing.std).view(1, 3, 1, 1)

    def __call__(self, images: Array) -> Array:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        with torch.inference_mode(), hooked(self.model, self.taps.names) as taken:
            drive(self.model, (x / 255.0 - self.mean) / self.std, self.taps.index)
        return torch.stack([to_tokens(z, self.taps.channels_last) for _, z in taken], 1).numpy()
