"""How an adaptor is trained."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from edge_runtime.config import AdaptorConfig
from edge_runtime.errors import ConfigError

if TYPE_CHECKING:
    from edge_runtime.basis import Basis

DEFAULT_RATES = {"attention": 3e-3, "linear": 1e-2, "segmentation": 3e-3}
FIT_ON = ("train", "train+val")


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training run. The papers fix the model alone; every default here is our choice.

    Args:
        kind: attention, linear (the probe) or segmentation, a class for every patch token; with 0
            blocks the probe of that.
        lr: peak learning rate; None means 3e-3, for linear 1e-2, and for features in a basis as
            many times that as the backbone's are wider (`settled`).
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
    pool: str = "mean"
    epochs: int = 100
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
        if self.kind not in DEFAULT_RATES:
            raise ConfigError(f"kind must be attention, linear or segmentation, not {self.kind!r}")
        if self.kind == "segmentation" and (self.init is not None or self.balance):
            raise ConfigError(
                "kind segmentation starts from random weights; leave --init and --balance out"
            )
        if self.fit_on not in FIT_ON:
            raise ConfigError(f"fit_on must be train or train+val, not {self.fit_on!r}")
        if self.epochs < 1 or self.batch_size < 1:
            raise ConfigError("epochs and batch size must each be at least 1")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ConfigError(f"the learning rate must be finite and above 0, not {self.rate}")
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
        """The peak learning rate in force."""
        return DEFAULT_RATES[self.kind] if self.lr is None else self.lr

    def settled(self, basis: Basis | None) -> TrainConfig:
        """This, with the learning rate that it has on features in `basis`.

        AdamW moves every weight by about the rate, whatever the gradient: what a sum over a token's
        numbers moves by is proportional to how many they are. As many times the rate make up for
        it, and then an adaptor in a basis learns as fast as one on the reconstructed features.
        """
        if self.lr is not None or basis is None:
            return self
        return replace(self, lr=self.rate * basis.embed_dim / basis.width)

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
            pool=self.pool,
            norm_eps=norm_eps,
            input_rms=input_rms,
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "lr": self.rate}
