"""What the adaptor is compared with, in PyTorch: heads on pooled features, LST and LAST.

Where a paper leaves something open, the choice is ours and said so. All end in the head of our
adaptor, LayerNorm and a linear layer that starts at zero, and pool the tokens in one way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.methods.taps import TapShape

MLP_WIDTH = 256
LST_REDUCTION = 8  # gives the 2.38 M parameters that are published for ViT-B/16
LST_TEMPERATURE = 0.1
LST_HEAD_WIDTH = 64  # as in every ViT
LAST_RANK = 16  # gives the 0.66 M published for ViT-B/16


def head(width: int, classes: int) -> nn.Sequential:
    """LayerNorm and a linear layer at zero: training starts from a uniform guess."""
    linear = nn.Linear(width, classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.LayerNorm(width), linear)


class Linear(nn.Module):
    """Linear probe of one pooled vector (B, d)."""

    def __init__(self, shape: TapShape):
        super().__init__()
        self.head = head(shape.dim, shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


class Mlp(nn.Module):
    """One hidden layer on the class token and the mean of the patch tokens together (B, 2d)."""

    def __init__(self, shape: TapShape):
        super().__init__()
        self.norm = nn.LayerNorm(2 * shape.dim)
        self.hidden = nn.Linear(2 * shape.dim, MLP_WIDTH)
        self.head = head(MLP_WIDTH, shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.gelu(self.hidden(self.norm(x))))


class TokenPool(nn.Module):
    """(B, N, d) -> (B, d): the class token, the mean of the patches, or the mean of these two."""

    def __init__(self, pool: str, prefix_tokens: int):
        super().__init__()
        self.pool, self.prefix_tokens = pool, prefix_tokens

    def forward(self, x: Tensor) -> Tensor:
        if self.pool == "cls":
            return x[:, 0]
        mean = x[:, self.prefix_tokens :].mean(1)
        return mean if self.pool == "mean" else (mean + x[:, 0]) / 2


class LowRankAttention(nn.Module):
    """softmax(q k^T / sqrt(r)) v U on LN(x), q, k, v of rank r: the module of LAST and of MIST."""

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * rank, bias=False)
        self.out = nn.Linear(rank, width, bias=False)
        bound = (3.0 / width) ** 0.5
        nn.init.uniform_(self.qkv.weight, -bound, bound)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return self.out(attention(q, k, v))


class Last(nn.Module):
    """Low-rank attention side-tuning (arXiv 2402.04009) on all taps (B, m + 1, N, d), any float.

    u_0 = z_0; u_{i+1} = u_i + LSA_i(u_i) + z_{i+1}. The frozen part of the last u is taken out
    again, so what the head sees is z_m and the sum of what the m modules add. One module a block
    (gap 1), rank 16. Ours: taps in units of the last one's root mean square, no biases, one head.
    """

    def __init__(self, shape: TapShape, pool: str, rank: int = LAST_RANK):
        super().__init__()
        self.scale = 1 / shape.rms[-1]
        self.blocks = nn.ModuleList(
            LowRankAttention(shape.dim, rank) for _ in range(shape.taps - 1)
        )
        self.pool = TokenPool(pool, shape.prefix_tokens)
        self.head = head(shape.dim, shape.classes)

    def forward(self, taps: Tensor) -> Tensor:
        tap = taps[:, 0].float() * self.scale
        stream, learnt = tap, torch.zeros(())
        for index, block in enumerate(self.blocks):
            added = block(stream)
            learnt = learnt + added
            tap = taps[:, index + 1].float() * self.scale
            stream = stream + added + tap
        return self.head(self.pool(tap + learnt))


class SideBlock(nn.Module):
    """A transformer block of a ladder, as ViT has it: attention and an MLP of ratio 4."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = max(1, width // LST_HEAD_WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.proj(attention(q, k, v, self.heads))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Lst(nn.Module):
    """Ladder side tuning (arXiv 2206.06522) on all taps (B, m + 1, N, d), any float.

    h_0 = D_0 z_0; h_i = block_i(mu_i D_i z_i + (1 - mu_i) h_{i-1}), mu_i = sigmoid(a_i / 0.1), a_i
    from 0; then up to d and the head. The width is an eighth. Ours: random start values in place of
    pruned backbone weights (features alone are at hand), taps divided by their root mean squares.
    """

    def __init__(self, shape: TapShape, pool: str, reduction: int = LST_REDUCTION):
        super().__init__()
        width = shape.dim // reduction
        self.scales = [1 / rms for rms in shape.rms]
        self.ladders = nn.ModuleList(nn.Linear(shape.dim, width) for _ in range(shape.taps))
        self.gates = nn.Parameter(torch.zeros(shape.taps - 1))
        self.blocks = nn.ModuleList(SideBlock(width) for _ in range(shape.taps - 1))
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, shape.dim)
        self.pool = TokenPool(pool, shape.prefix_tokens)
        self.head = head(shape.dim, shape.classes)

    def forward(self, taps: Tensor) -> Tensor:
        gates = torch.sigmoid(self.gates / LST_TEMPERATURE)
        rungs = [
            ladder(taps[:, index].float() * self.scales[index])
            for index, ladder in enumerate(self.ladders)
        ]
        stream = rungs[0]
        for gate, rung, block in zip(gates, rungs[1:], self.blocks):
            stream = block(gate * rung + (1 - gate) * stream)
        return self.head(self.up(self.pool(self.norm(stream))))


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int = 1) -> Tensor:
    """Softmax attention of (B, N, r), in heads of equal width."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    mixed = functional.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).flatten(2)


def parameter_count(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
