"""What every export must pass: ONNX Runtime against torch, and against timm's own intermediates.

Both comparisons run on eight unlike images in batches of 1, 2 and 5. Two figures each:

    max_relative = max |a - b| / max |b|
    rms_relative = the worst channel's rms(a - b) / max(its rms(b), the median channel's rms(b))

The second sees what the first misses where a few outlier channels dominate all others.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_runtime.errors import ExportError
from edge_runtime.preprocess import Preprocessing
from export.onnx_export import INPUT, OUTPUT
from export.quiet import quiet
from export.tap_sum import TapSum, cut_stage
from export.taps import Taps, hooked

BATCHES = (1, 2, 5)
LIMIT = 1e-3
FLOAT16_ROUNDING = 2.0**-11  # half a unit in the last place of an 11-bit significand

INTERMEDIATES = "timm's forward_intermediates"
TINY = float(np.finfo(np.float32).tiny)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Errors:
    """Largest relative errors over all batches."""

    max_relative: float
    rms_relative: float

    def to_json(self) -> dict[str, float]:
        """Two significant digits: what lies below changes with the number of threads."""
        return {
            "max_relative": float(f"{self.max_relative:.1e}"),
            "rms_relative": float(f"{self.rms_relative:.1e}"),
        }


def limit(half: bool) -> float:
    """The largest relative error that passes: 1e-3, for float16 output and its rounding on top."""
    return LIMIT + (FLOAT16_ROUNDING if half else 0.0)


def sample_images(size: int) -> list[Tensor]:
    """Batches of uint8 [1 | 2 | 5, S, S, 3]: noise, flat, smooth, hard edges; seeded."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, size)
    noise = rng.integers(0, 256, (size, size, 3))
    coarse = rng.integers(0, 256, (8, 8, 3))
    blocks = coarse.repeat(-(-size // 8), 0).repeat(-(-size // 8), 1)[:size, :size]
    smooth = 127.5 + 127.5 * np.sin(ramp[:, None, None] / 40 + ramp[None, :, None] / (25, 40, 70))
    rows, columns = np.indices((size, size)) // 4
    checker = np.broadcast_to(255 * ((rows + columns) % 2)[:, :, None], (size, size, 3))
    gradient = np.stack([np.tile(ramp, (size, 1)), np.tile(ramp[:, None], size), noise[:, :, 0]], 2)
    black, white = np.zeros((size, size, 3)), np.full((size, size, 3), 255)
    mixed = noise // 2 + blocks // 2
    images = np.stack([blocks, noise, smooth, black, white, checker, gradient, mixed])
    whole = torch.from_numpy(images.astype(np.uint8))
    return list(whole.split(list(BATCHES)))


def sums_by_hand(
    model: nn.Module, taps: Taps, k: int, preprocessing: Preprocessing, batches: Sequence[Tensor]
) -> list[Array]:
    """The sums from timm's `forward_intermediates` and z_0 from a hook, on the whole model.

    Returns:
        float32 [B, tokens, embed_dim] for each batch; the model is left as it was.

    Raises:
        ExportError: timm's intermediates have another shape than the taps, or fail.
    """
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    sums = []
    with torch.inference_mode():
        for images in batches:
            x = ((images.float().div(255) - mean) / std).permute(0, 3, 1, 2).contiguous()
            try:
                sums.append(_sum_by_hand(model, taps, k, x).numpy())
            except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
                line = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
                raise ExportError(
                    f"timm cannot give the intermediates to verify the sum against: {line}"
                ) from None
    return sums


def _sum_by_hand(model: nn.Module, taps: Taps, k: int, x: Tensor) -> Tensor:
    prefix = taps.prefix_tokens > 0
    with hooked(model, taps.names[:1]) as taken:
        if taps.hierarchical:
            maps = [_last_stage(model, taps, blocks, x) for blocks in range(1, k + 1)]
        else:
            maps = _intermediates(model, x, list(range(k)), prefix)
    z_0 = taken[0][1]
    if z_0.ndim == 4:
        z_0 = z_0.permute(0, 3, 1, 2) if taps.channels_last else z_0
        z_0 = z_0.flatten(2).transpose(1, 2)
    total: Tensor = z_0.clone()
    for z in maps:
        if z.shape != total.shape:
            raise ExportError(
                f"timm's intermediates {list(z.shape[1:])} differ from what the blocks give, "
                f"{list(total.shape[1:])}; choose another model"
            )
        total += z
    return total


def _intermediates(model: nn.Module, x: Tensor, indices: list[int], prefix: bool) -> list[Tensor]:
    """The intermediates timm gives, as [B, tokens, C], prefix tokens first."""
    run = cast(Any, model).forward_intermediates
    options: dict[str, Any] = {"indices": indices, "norm": False, "intermediates_only": True}
    if prefix:
        options["return_prefix_tokens"] = True
    taken = run(x, output_fmt="NCHW", **options)
    if not prefix:
        return [grid.flatten(2).transpose(1, 2) for grid in taken]
    return [torch.cat([first, grid.flatten(2).transpose(1, 2)], dim=1) for grid, first in taken]


def _last_stage(model: nn.Module, taps: Taps, blocks: int, x: Tensor) -> Tensor:
    """Output of the last stage [B, tokens, C] when it ends behind its first `blocks` blocks."""
    with cut_stage(model, taps, blocks):
        return _intermediates(model, x, [taps.index], False)[0]


def compare(found: Sequence[Array], expected: Sequence[Array]) -> Errors:
    """Largest relative errors of float32 [B, tokens, C] arrays over all batches."""
    worst_max, worst_rms = 0.0, 0.0
    for a, b in zip(found, expected):
        if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
            return Errors(math.inf, math.inf)
        difference = (a - b).astype(np.float64)
        rms = np.sqrt(np.mean(np.square(difference), axis=(0, 1)))
        size = np.sqrt(np.mean(np.square(b.astype(np.float64)), axis=(0, 1)))
        largest, usual = max(np.abs(b).max(), TINY), max(float(np.median(size)), TINY)
        worst_max = max(worst_max, float(np.abs(difference).max() / largest))
        worst_rms = max(worst_rms, float((rms / np.maximum(size, usual)).max()))
    return Errors(worst_max, worst_rms)


def run_onnx(data: bytes, scale: float, batches: Sequence[Tensor]) -> list[Array]:
    """Runs the file's bytes with ONNX Runtime on the CPU; output x scale, float32."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    with quiet():
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    results = (session.run([OUTPUT], {INPUT: images.numpy()})[0] for images in batches)
    return [np.asarray(result, dtype=np.float32) * np.float32(scale) for result in results]


def verify(
    data: bytes, module: TapSum, batches: Sequence[Tensor], by_hand: Sequence[Array]
) -> dict[str, Any]:
    """Compares the finished graph with torch and with the sums by hand.

    Returns:
        `verified` of the manifest.

    Raises:
        ExportError: an error above the limit, or an output that is not finite.
    """
    with torch.inference_mode():
        in_torch = [module.total(images).numpy() for images in batches]
    found = run_onnx(data, module.scale, batches)
    allowed = limit(module.half)
    return {
        "batch_sizes": [len(images) for images in batches],
        "limit": float(f"{allowed:.3e}"),
        "torch": check("torch", found, in_torch, allowed).to_json(),
        "forward_intermediates": check(INTERMEDIATES, found, by_hand, allowed).to_json(),
    }


def check_sum(module: TapSum, batches: Sequence[Tensor], by_hand: Sequence[Array]) -> None:
    """Compares the module itself with the sums by hand, before time is spent on its export.

    Raises:
        ExportError: the model does more than run one block after the other.
    """
    with torch.inference_mode():
        found = [module.total(images).numpy() for images in batches]
    check(INTERMEDIATES, found, by_hand, LIMIT)


def check(what: str, found: Sequence[Array], expected: Sequence[Array], allowed: float) -> Errors:
    """Refuses a sum that differs by more than `allowed`."""
    errors = compare(found, expected)
    if max(errors.max_relative, errors.rms_relative) <= allowed:
        return errors
    raise ExportError(
        f"the sum of the blocks differs from {what} by {errors.max_relative:.1e} (largest) and "
        f"{errors.rms_relative:.1e} (worst channel), at most {allowed:.1e} is allowed: this model "
        "cannot be exported faithfully; choose another"
    )
