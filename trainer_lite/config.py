"""How an adaptor is trained."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import ConfigError

KINDS = ("attention", "linear", "segmentation")
# The default learning rate times the numbers a token has: 1e-2 at the 192 of ViT-Ti/16, where four
# sets' val splits chose it. A run that starts from an adaptor has less to learn.
RATE_TIMES_WIDTH = 1.92
RATE_TIMES_WIDTH_FROM_INIT = 0.576
HIGHEST_DEFAULT_RATE = 0.02
FIT_ON = ("train", "train+val")


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training run. The papers fix the model alone; every default here is our choice.

    Args:
        kind: attention, linear (the probe) or segmentation, a class for every patch token; with 0
            blocks the probe of that.
        pool: what the head sees; None is cls+mean, without a class token mean (`settled`).
        lr: peak learning rate; None follows from the features' width (`settled`).
        warmup: fraction of the steps in which the rate rises.
        fit_on: "train", or "train+val" for a last run when all is settled.
        drop_path: probability of dropping a block's contribution, an image at a time.
        clip_norm: gradients longer than this (Euclidean, over all parameters) are scaled down to
            it; None leaves them.
        head_only: train the head (the tensors `head.*`) and leave all else as it is.
        balance: show rarer classes more often, so that an epoch has as many images of each.
        init: sha256 of the adaptor that the run starts from; `Start.config` sets it.

    Raises:
        ConfigError: a value out of its range.
    """

    kind: str = "attention"
    rank: int = 8
    blocks: int = 4
    heads: int = 1
    pool: str | None = None
    epochs: int = 40
    batch_size: int = 32
    lr: float | None = None
    weight_decay: float = 1.0
    warmup: float = 0.1
    fit_on: str = "train"
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    clip_norm: float | None = None
    seed: int = 0
    head_only: bool = False
    init: str | None = None
    balance: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind must be attention, linear or segmentation, not {self.kind!r}")
        if self.kind == "segmentation" and (self.init is not None or self.balance):
            raise ConfigError(
                "kind segmentation starts from random weights; leave --init and --balance out"
            )
        if self.fit_on not in FIT_ON:
            raise ConfigError(f"fit_on must be train or train+val, not {self.fit_on!r}")
        if self.epochs < 1 or self.batch_size < 1:
            raise ConfigError("epochs and batch size must each be at least 1")
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"the learning rate must be finite and above 0, not {self.lr}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"weight decay must be finite and not negative: {self.weight_decay}")
        clip = self.clip_norm
        if clip is not None and not (math.isfinite(clip) and clip > 0):
            raise ConfigError(f"clip_norm must be finite and above 0, not {clip}")
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"warmup is a fraction of the run, 0 to 1, not {self.warmup}")
        if not -(1 << 63) < self.seed < 1 << 63:
            raise ConfigError(f"the seed must fit in 64 bits, not {self.seed}")
        if self.head_only and self.init is None:
            raise ConfigError("--head-only needs --init, the adaptor whose other weights stay")
        for name in ("label_smoothing", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1")

    @property
    def rate(self) -> float:
        """The peak learning rate, once settled."""
        if self.lr is None:
            raise ConfigError("the learning rate follows from the features; call settled() first")
        return self.lr

    def settled(self, width: int, prefix_tokens: int) -> TrainConfig:
        """This, with what follows from the features: the learning rate, and what the head sees.

        AdamW moves every weight by about the rate, whatever the gradient: what a sum over a token's
        numbers moves by is proportional to how many they are. So the rate falls as they grow, and
        an adaptor on features in a basis learns as fast as one on the reconstructed features.

        Args:
            width: numbers a token has, as they are stored.
        """
        product = RATE_TIMES_WIDTH if self.init is None else RATE_TIMES_WIDTH_FROM_INIT
        two = prefix_tokens > 0 and self.kind != "segmentation"
        return replace(
            self,
            lr=min(product / width, HIGHEST_DEFAULT_RATE) if self.lr is None else self.lr,
            pool=("cls+mean" if two else "mean") if self.pool is None else self.pool,
        )

    def adaptor_config(
        self,
        *,
        tokens: int,
        prefix_tokens: int,
        embed_dim: int,
        classes: int,
        norm_eps: float,
        input_rms: float,
    ) -> AdaptorConfig:
        """The adaptor that this run trains on features of that shape."""
        pool = self.settled(embed_dim, prefix_tokens).pool
        assert pool is not None
        blocks = self.kind == "attention" or (self.kind == "segmentation" and self.blocks)
        return AdaptorConfig(
            kind=self.kind,
            tokens=tokens,
            prefix_tokens=prefix_tokens,
            embed_dim=embed_dim,
            classes=classes,
            rank=self.rank if blocks else 0,
            blocks=self.blocks if blocks else 0,
            heads=self.heads if blocks else 1,
            pool=pool,
            norm_eps=norm_eps,
            input_rms=input_rms,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
