"""The adaptor as a graph, written once for every format: a decoder, LayerNorm, attention, a head.

The form is the plain one of docs/adaptor.md ("Model"), residual stream and all, not the fused one
that the device computes: other runtimes have fast operators for it, and the two check each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Protocol

import numpy as np

from edge_runtime import formats
from edge_runtime.codecs import Codec
from edge_runtime.config import AdaptorConfig
from edge_runtime.graph_runners import FEATURES, PROBABILITIES, SCALE

PRODUCER = "edgetune"

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


class Writer(Protocol):
    """The operations that the graph is made of.

    A value is known by its name. Every shape is that of one image: the batch comes before it, and
    is of any size. Axes count from 0, the batch being none of them.
    """

    def input(self, name: str, dtype: np.dtype[Any], shape: Shape) -> str: ...
    def output(self, value: str, name: str, shape: Shape) -> None: ...
    def to_float(self, value: str, dtype: np.dtype[Any]) -> str: ...
    def scale(self, value: str, factor: float) -> str: ...
    def add(self, left: str, right: str) -> str: ...
    def multiply(self, left: str, right: str) -> str: ...
    def layer_norm(self, value: str, weight: Array, bias: Array, eps: float, name: str) -> str: ...
    def linear(self, value: str, matrix: Array, bias: Array | None, name: str) -> str:
        """value (..., in) times matrix (in, out), which is stored as the writer was told."""

    def split(self, value: str, parts: int) -> Sequence[str]:
        """Equal parts along the last axis."""

    def reshape(self, value: str, shape: Shape) -> str: ...
    def transpose(self, value: str, axes: Shape) -> str: ...
    def matmul(self, left: str, right: str) -> str: ...
    def matmul_transposed(self, left: str, right: str) -> str:
        """left (..., n, c) times right (..., m, c) transposed."""

    def softmax(self, value: str) -> str: ...
    def mean_tokens(self, value: str, first: int, count: int) -> str:
        """Mean over `count` entries of axis 0, from `first` on."""

    def finish(self, description: formats.Json) -> bytes:
        """The file's bytes, the same every time, with what the graph says of itself."""


def emit_adaptor(
    config: AdaptorConfig, parameters: Mapping[str, Array], codec: Codec, writer: Writer
) -> None:
    """Writes the adaptor: stored features (and their scales) in, probabilities (classes,) out."""
    u = emit_decoder(config, codec, writer)
    for index in range(config.blocks):
        u = emit_block(config, parameters, index, u, writer)
    logits = emit_head(config, parameters, u, writer)
    writer.output(writer.softmax(logits), PROBABILITIES, (config.classes,))


def emit_head(
    config: AdaptorConfig, parameters: Mapping[str, Array], u: str, writer: Writer
) -> str:
    """LayerNorm and a linear layer of each pooled vector; the sum of these is the logits."""
    parts = []
    for index, tokens in enumerate(config.pools):
        name = f"head.{index}" if len(config.pools) > 1 else "head"
        own = slice(config.embed_dim * index, config.embed_dim * (index + 1))
        weight, bias = (parameters[f"head.norm_{part}"][own] for part in ("weight", "bias"))
        pooled = writer.mean_tokens(u, tokens.start, len(tokens))
        pooled = writer.layer_norm(pooled, weight, bias, config.norm_eps, f"{name}.norm")
        matrix = parameters["head.weight"][:, own].T
        added = None if index else parameters["head.bias"]
        parts.append(writer.linear(pooled, matrix, added, f"{name}.weight"))
    return reduce(writer.add, parts)


def emit_decoder(config: AdaptorConfig, codec: Codec, writer: Writer) -> str:
    """u_0 = stored x scale / input_rms, (tokens, dim)."""
    stored = writer.input(FEATURES, codec.dtype, (config.tokens, config.embed_dim))
    z = writer.to_float(stored, codec.dtype)
    inverse = 1.0 / config.input_rms
    if not codec.scale_axes:
        return writer.scale(z, inverse)
    shape = (config.tokens,)[: codec.scale_axes - 1]
    scale = writer.scale(writer.input(SCALE, np.dtype(np.float32), shape), inverse)
    return writer.multiply(z, writer.reshape(scale, (*(shape or (1,)), 1)))


def emit_block(
    config: AdaptorConfig, parameters: Mapping[str, Array], index: int, u: str, writer: Writer
) -> str:
    """u + H U of one block, H = softmax(q k^T / sqrt(rank / heads)) v a head."""
    n, r, heads, e = config.tokens, config.rank, config.heads, config.head_rank
    name = f"blocks.{index}"
    weight, bias = (parameters[f"blocks.norm_{part}"][index] for part in ("weight", "bias"))
    normed = writer.layer_norm(u, weight, bias, config.norm_eps, f"{name}.norm")
    qkv = writer.linear(normed, parameters["blocks.qkv"][index].T, None, f"{name}.qkv")
    q, k, v = (
        writer.transpose(writer.reshape(part, (n, heads, e)), (1, 0, 2))
        for part in writer.split(qkv, 3)
    )
    scores = writer.scale(writer.matmul_transposed(q, k), e**-0.5)
    h = writer.matmul(writer.softmax(scores), v)
    h = writer.reshape(writer.transpose(h, (1, 0, 2)), (n, r))
    return writer.add(u, writer.linear(h, parameters["blocks.out"][index], None, f"{name}.out"))
