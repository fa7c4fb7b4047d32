"""The module that becomes the graph: images in, the sum of the taps out, nothing behind block k.

    z = z_0 + z_1 + ... + z_k,  z_0 = input of the first block, z_i = output of block i

Gather* of tap-and-sum: nothing is normalised in between. Arithmetic is float32; only the finished
sum is cast.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from edge_runtime.errors import ExportError
from edge_runtime.preprocess import Preprocessing
from export.taps import Taps, drive, hooked

FLOAT16_MAX = 65504.0
HEADROOM = 8.0  # largest sum measured at export x this still fits float16


class TapSum(nn.Module):  # type: ignore[misc]
    """uint8 [B, S, S, 3] -> float16 or float32 [B, tokens, embed_dim], the sum / `scale`."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, taps: Taps, k: int, preprocessing: Preprocessing) -> None:
        """Takes the first `k` blocks of a frozen timm model, and drops the rest from it."""
        super().__init__()
        self.taps = taps
        self.k = k
        self.model = model
        self.scale = 1.0
        self.half = False
        for name, value in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)
        self.index = prune(model, taps, k)

    def total(self, images: Tensor) -> Tensor:
        """The exact sum: uint8 [B, S, S, 3] -> float32 [B, tokens, embed_dim]."""
        x = images.permute(0, 3, 1, 2).to(torch.float32)
        x = (x / 255.0 - self.mean) / self.std
        with hooked(self.model, self.taps.names[: self.k]) as taken:
            drive(self.model, x, self.index)
        total = taken[0][1]
        for _, z in taken[1:]:
            total = total + z
        return to_tokens(total, self.taps.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, S, S, 3] -> features [B, tokens, embed_dim]; never infinite in float16."""
        total = self.total(images)
        if not self.half:
            return total
        return (total / self.scale).clamp(-FLOAT16_MAX, FLOAT16_MAX).to(torch.float16)


def to_tokens(z: Tensor, channels_last: bool) -> Tensor:
    """A tap as [B, tokens, C]: from [B, N, C], [B, H, W, C] or [B, C, H, W]."""
    if z.ndim == 3:
        return z
    return z.flatten(1, 2) if channels_last else z.flatten(2).transpose(1, 2)


def prune(model: nn.Module, taps: Taps, k: int) -> int:
    """Drops head, final norm and the blocks behind `k`; returns the intermediate to run up to."""
    runner = cast(Any, model)
    if taps.hierarchical:
        owner, child = stage_list(model, taps)
        setattr(owner, child, cast(Any, owner.get_submodule(child))[:k])
        index = taps.index
    else:
        index = k - 1
    if hasattr(model, "prune_intermediate_layers"):
        runner.prune_intermediate_layers([index], prune_norm=True, prune_head=True)
    return index


def stage_list(model: nn.Module, taps: Taps) -> tuple[nn.Module, str]:
    """The module that owns the last stage's list of blocks, and the list's name in it."""
    parent, _, child = taps.names[0].rpartition(".")[0].rpartition(".")
    return model.get_submodule(parent), child


@contextlib.contextmanager
def cut_stage(model: nn.Module, taps: Taps, k: int) -> Iterator[None]:
    """Keeps the first `k` blocks of the last stage, inside the block."""
    owner, child = stage_list(model, taps)
    blocks = cast(Any, owner.get_submodule(child))
    setattr(owner, child, blocks[:k])
    try:
        yield
    finally:
        setattr(owner, child, blocks)


def choose_scale(largest: float, *, half: bool) -> float:
    """The power of two by which sums are divided so that float16 holds `HEADROOM` x `largest`.

    Raises:
        ExportError: the sums are not finite.
    """
    if not largest < float("inf"):
        raise ExportError("the sum of the taps is not finite: the weights are damaged")
    scale = 1.0
    while half and largest * HEADROOM >= FLOAT16_MAX * scale:
        scale *= 2.0
    return scale


def weights_sha256(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over name, dtype, shape and bytes of each tensor, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors):
        array = tensor.detach().contiguous().numpy()
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name} {array.dtype.name} {list(array.shape)}\n".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()
