"""MACs, FLOPs and bytes, counted from the operations of a program.

One MAC is two FLOPs, and matrix products alone have MACs. An elementwise operation counts one FLOP
an entry and pass, whatever it computes: exp and a division cost more than one, and say so in time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from edge_runtime import ops
from edge_runtime.config import AdaptorConfig
from edge_runtime.program import Array, Program

FLOPS_PER_MAC = 2


@dataclass(frozen=True)
class Cost:
    """What one operation computes, and what it reads and writes if nothing is read twice.

    `images` is of an operation that reads images from storage: each is asked for by itself.
    """

    macs: int
    flops: int
    bytes: int
    images: int = 0

    def over(self, runs: int) -> Cost:
        """The share of one of so many runs."""
        return Cost(*(part // runs for part in astuple(self)))

    @classmethod
    def total(cls, costs: Iterable[tuple[int, Cost]]) -> Cost:
        """Of (runs, cost of one run)."""
        parts = zip(*([runs * part for part in astuple(cost)] for runs, cost in costs))
        return cls(*map(sum, parts))


def program_macs(program: Program) -> int:
    """MACs of one run of a program."""
    return sum(operation_macs(f, arguments) for f, arguments in program.operations)


def operation_macs(function: Any, arguments: tuple[Any, ...]) -> int:
    """MACs of one operation: for a product, entries of the result x length of a sum; what an
    operation that has several inside says itself."""
    if function in (np.matmul, ops.outer):
        left, _, out = arguments
        return int(out.size * left.shape[-1])
    if function is ops.times_transposed:
        square: Array = arguments[1]
        return int(arguments[-1].size * square.shape[-1])
    return int(getattr(function, "macs", 0))


def operation_cost(function: Any, arguments: tuple[Any, ...], uses: tuple[Array, ...]) -> Cost:
    """Cost of one operation; an array that is changed in place counts twice in `bytes`."""
    arrays = [a for a in (*arguments, *uses) if isinstance(a, np.ndarray)]
    largest = max((a.size for a in arrays), default=0)
    touched = sum(a.nbytes for a in arrays)
    macs = operation_macs(function, arguments)
    if macs:
        return Cost(macs, FLOPS_PER_MAC * macs, touched)
    if isinstance(function, np.ufunc):
        return Cost(0, arrays[-1].size, touched)
    if getattr(function, "__name__", "") == "reduce":
        return Cost(0, largest, touched)
    passes: int = getattr(function, "passes", 0)
    in_place = len(arrays) == 1 and passes
    return Cost(0, passes * largest, touched * (2 if in_place else 1))


def textbook_forward_macs(config: AdaptorConfig) -> int:
    """MACs of one image's forward pass with the residual stream written out, in closed form.

    What an exported graph does, and what a counter of such graphs reports: for each block
    N d 3r (q, k, v), N N r twice (scores, values) and N r d; then the head, once or a patch.
    """
    n, d, r = config.tokens, config.embed_dim, config.rank
    block = n * d * 3 * r + 2 * n * n * r + n * r * d
    heads = config.patch_tokens if config.dense else 1
    return config.blocks * block + heads * config.head_dim * config.classes


def forward_macs(config: AdaptorConfig) -> int:
    """MACs of one image's forward pass as it runs here, in closed form (docs/adaptor.md).

    Width d is touched once, for all blocks, by C = 4rL - r rows; the last block's U acts on the
    pooled feature alone. Softmax's sum is one more row of v; pooling is a product, too. Where every
    token has logits, the head is a block more, of rows alone.
    """
    n, d, r, depth = config.tokens, config.embed_dim, config.rank, config.blocks
    if config.dense:
        rows = [4 * r] * depth + [config.classes]
        earlier = sum(r * index * count for index, count in enumerate(rows))
        attention = config.heads * n * (2 * config.head_rank + 1) if depth else 0
        return n * (d * config.product_rows + earlier + depth * (r * r + attention))
    rows = [4 * r] * (depth - 1) + [3 * r] if depth else []
    earlier = sum(r * index * count for index, count in enumerate(rows))
    attention = config.heads * n * (2 * config.head_rank + 1) if depth else 0
    tokens = d * config.product_rows + earlier + max(0, depth - 1) * r * r + depth * attention
    pooled = sum(n * (d + r * depth) for pool in config.pools if len(pool) > 1)
    head = len(config.pools) * (r * depth * d + d * config.classes)
    return n * tokens + pooled + head
