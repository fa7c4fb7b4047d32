"""What an adaptor is: its shape and the constants that prediction needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_runtime.errors import ConfigError

KINDS = ("attention", "linear", "segmentation")
POOLS = ("mean", "cls", "cls+mean")
IGNORED = 255  # in masks and labels of tokens: no class
# Far wider than any backbone, and narrow enough for squares and inverse squares in float32.
BOUNDS = {"norm_eps": (1e-12, 1.0), "input_rms": (1e-12, 1e12)}


@dataclass(frozen=True)
class AdaptorConfig:
    """Shape of an adaptor. `linear` is the probe: the head alone, no blocks.

    `segmentation` has a class for every patch token, of a square grid; its head comes after each
    token's norm, nothing is pooled, and 0 blocks are its linear probe.

    `tokens` counts the prefix tokens (class, register ...), which come first. `input_rms` is the
    root mean square of the training features; the adaptor sees features / input_rms.

    Raises:
        ConfigError: a combination that no adaptor can have.
    """

    kind: str
    tokens: int
    prefix_tokens: int
    embed_dim: int
    classes: int
    rank: int
    blocks: int
    heads: int
    pool: str
    norm_eps: float
    input_rms: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.pool not in POOLS:
            raise ConfigError(f"pool must be one of {', '.join(POOLS)}, not {self.pool!r}")
        if not (0 <= self.prefix_tokens < self.tokens and self.embed_dim >= 1):
            raise ConfigError(
                f"features of {self.tokens} tokens ({self.prefix_tokens} of them prefix tokens) "
                f"x {self.embed_dim} cannot be trained on; at least one patch token is needed"
            )
        if self.classes < 2:
            raise ConfigError(f"at least two classes are needed, not {self.classes}")
        if "cls" in self.pool and self.prefix_tokens == 0:
            raise ConfigError(
                f"pool {self.pool} needs a class token, and this backbone has none; use --pool mean"
            )
        if self.dense:
            self._check_grid()
        if self.kind == "attention" or (self.dense and self.blocks):
            self._check_blocks()
        elif self.blocks or self.rank:
            what = "without blocks" if self.dense else "has no blocks"
            raise ConfigError(f"kind {self.kind} {what}: blocks and rank must be 0")
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"{name} must be from {least:g} to {most:g}, not {value}")

    def _check_grid(self) -> None:
        if self.grid_side**2 != self.patch_tokens:
            raise ConfigError(
                f"kind segmentation needs patch tokens in a square grid, and these "
                f"{self.patch_tokens} are none"
            )
        if self.pool != "mean":
            raise ConfigError("kind segmentation pools nothing; leave --pool out")
        if self.classes > IGNORED:
            raise ConfigError(f"masks hold at most {IGNORED} classes, not {self.classes}")

    def _check_blocks(self) -> None:
        if self.blocks < 1 or self.rank < 1 or self.heads < 1:
            raise ConfigError("rank, blocks and heads must each be at least 1")
        if self.rank > self.embed_dim:
            raise ConfigError(
                f"rank {self.rank} is above the feature width {self.embed_dim}; "
                f"use --rank {self.embed_dim} or less"
            )
        if self.rank % self.heads:
            raise ConfigError(
                f"rank {self.rank} does not divide into {self.heads} heads of equal width"
            )

    @property
    def head_rank(self) -> int:
        """Width of one attention head."""
        return self.rank // self.heads

    @property
    def dense(self) -> bool:
        """Whether every patch token has logits of its own."""
        return self.kind == "segmentation"

    @property
    def patch_tokens(self) -> int:
        """Tokens that are no prefix tokens."""
        return self.tokens - self.prefix_tokens

    @property
    def grid_side(self) -> int:
        """Patch tokens along one side of their square grid."""
        return math.isqrt(self.patch_tokens)

    @property
    def head_rows(self) -> int:
        """Rows of the fused weight that are the head's: a class each, where it is dense."""
        return self.classes if self.dense else 0

    @property
    def product_rows(self) -> int:
        """Rows of the fused weight that multiply z: all, but for the last block's U where only
        the pooled stream is needed behind it."""
        if self.dense:
            return 4 * self.rank * self.blocks + self.classes
        return max(0, 4 * self.rank * self.blocks - self.rank)

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """Shape of an image's logits: (classes,), or (classes, side, side) of its patch tokens."""
        return (self.classes, *[self.grid_side] * (2 if self.dense else 0))

    @property
    def pools(self) -> tuple[range, ...]:
        """The tokens of each mean that the head sees, side by side."""
        of = {"cls": range(1), "mean": range(self.prefix_tokens, self.tokens)}
        return tuple(of[name] for name in self.pool.split("+"))

    @property
    def head_dim(self) -> int:
        """Width of what the head sees."""
        return len(self.pools) * self.embed_dim

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every trained tensor, matrices first (weight decay applies to those alone)."""
        d, r, depth = self.embed_dim, self.rank, self.blocks
        blocks = {"blocks.qkv": (depth, 3 * r, d), "blocks.out": (depth, r, d)}
        vectors = {"blocks.norm_weight": (depth, d), "blocks.norm_bias": (depth, d)}
        if not depth:
            blocks, vectors = {}, {}
        return {
            **blocks,
            "head.weight": (self.classes, self.head_dim),
            **vectors,
            "head.norm_weight": (self.head_dim,),
            "head.norm_bias": (self.head_dim,),
            "head.bias": (self.classes,),
        }

    def parameter_count(self) -> int:
        """Number of trainable parameters."""
        return sum(math.prod(shape) for shape in self.parameter_shapes().values())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> AdaptorConfig:
        """Rebuilds a configuration; ConfigError where an entry is missing, odd or unknown."""
        kinds = {"str": (str,), "int": (int,), "float": (int, float)}
        fields = {name: kinds[str(f.type)] for name, f in cls.__dataclass_fields__.items()}
        if set(content) != set(fields):
            raise ConfigError("the configuration's entries are not those of an adaptor")
        for name, types in fields.items():
            if not isinstance(content[name], types) or isinstance(content[name], bool):
                raise ConfigError(f"configuration entry {name!r} has the wrong type")
        return cls(**content)


def is_matrix(name: str) -> bool:
    """Whether weight decay applies to this tensor."""
    return name in ("blocks.qkv", "blocks.out", "head.weight")
