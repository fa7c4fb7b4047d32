"""The adaptor as anyone would write it in PyTorch: the model that the numpy code must equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge_runtime.config import AdaptorConfig

Array = np.ndarray[Any, Any]


def to_torch(parameters: Mapping[str, Array]) -> dict[str, Tensor]:
    """Leaf tensors that ask for a gradient."""
    return {name: torch.tensor(a, requires_grad=True) for name, a in parameters.items()}


def adaptor_logits(
    config: AdaptorConfig, p: Mapping[str, Tensor], z: Tensor, drop: Tensor | None = None
) -> Tensor:
    """Logits (B, K) of features z (B, N, d), with the residual stream written out.

    Where every patch token has logits: (B, K, patch tokens).
    """
    d, r, heads = config.embed_dim, config.rank, config.heads
    images, n, _ = z.shape
    u = z / config.input_rms
    for index in range(config.blocks):
        normed = functional.layer_norm(
            u,
            (d,),
            p["blocks.norm_weight"][index],
            p["blocks.norm_bias"][index],
            config.norm_eps,
        )
        qkv = normed @ p["blocks.qkv"][index].T
        q, k, v = (
            part.reshape(images, n, heads, r // heads).transpose(1, 2)
            for part in qkv.split(r, dim=-1)
        )
        attention = functional.softmax(q @ k.transpose(2, 3) * (r // heads) ** -0.5, dim=-1)
        h = (attention @ v).transpose(1, 2).reshape(images, n, r)
        if drop is not None:
            h = h * drop[index][:, None, None]
        u = u + h @ p["blocks.out"][index]
    if config.dense:
        shape, norm = (d,), (p["head.norm_weight"], p["head.norm_bias"])
        normed = functional.layer_norm(u[:, config.prefix_tokens :], shape, *norm, config.norm_eps)
        return (normed @ p["head.weight"].T + p["head.bias"]).transpose(1, 2)
    found = {"cls": u[:, 0], "mean": u[:, config.prefix_tokens :].mean(dim=1)}
    pooled = torch.cat(
        [
            functional.layer_norm(found[name], (d,), eps=config.norm_eps)
            for name in config.pool.split("+")
        ],
        1,
    )
    pooled = pooled * p["head.norm_weight"] + p["head.norm_bias"]
    return pooled @ p["head.weight"].T + p["head.bias"]
