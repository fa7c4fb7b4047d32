"""What a device must do to an image, from the configuration that comes with the weights."""

from __future__ import annotations

import importlib
import math
from typing import Any

from torch import nn

from edge_runtime.errors import ExportError
from edge_runtime.preprocess import CROP_MODES, INTERPOLATIONS, Preprocessing


def resolve(model: nn.Module, size: int) -> Preprocessing:
    """The evaluation transform of a timm model at `size` pixels.

    Raises:
        ExportError: a crop mode or interpolation that the device side does not do.
    """
    data: Any = importlib.import_module("timm.data")
    config = data.resolve_model_data_config(model, args={"input_size": (3, size, size)})
    crop_mode, interpolation = str(config["crop_mode"]), str(config["interpolation"])
    for what, value, known in (
        ("crop mode", crop_mode, CROP_MODES),
        ("interpolation", interpolation, INTERPOLATIONS),
    ):
        if value not in known:
            raise ExportError(
                f"these weights want {what} {value!r}; supported are {', '.join(known)}: "
                "choose other weights"
            )
    mean, std = (tuple(float(value) for value in config[key]) for key in ("mean", "std"))
    return Preprocessing(
        size=size,
        resize=math.floor(size / config["crop_pct"]),
        crop_mode=crop_mode,
        interpolation=interpolation,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
    )
