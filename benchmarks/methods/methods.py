"""The methods that are compared: what each is trained on, and what has to be sent for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.methods.taps import TapShape

if TYPE_CHECKING:
    from torch import nn

    from edge_runtime.config import AdaptorConfig

VIT_B16 = TapShape(13, 197, 1, 768, 100, (1.0,) * 13, 1.0)


@dataclass(frozen=True)
class Method:
    """One way to adapt.

    Args:
        network: linear, mlp, lst, last; adaptor is ours.
        source: `sum` or `last` (pooled vectors of it), `taps` (every one), `map` (the sum's).
        pool: which pooled vectors, or how a network pools: cls, mean, both.
    """

    name: str
    title: str
    network: str
    source: str
    pool: str

    def image_bytes(self, shape: TapShape) -> int:
        """Bytes that have to be sent for an image, in float16."""
        if self.source == "taps":
            return shape.image_bytes
        if self.source == "map":
            return shape.image_bytes // shape.taps
        return 2 * shape.dim * (2 if self.pool == "both" else 1)

    def build(self, shape: TapShape) -> nn.Module:
        """The PyTorch network; ours has none."""
        from benchmarks.methods import networks

        if self.network == "lst":
            return networks.Lst(shape, self.pool)
        if self.network == "last":
            return networks.Last(shape, self.pool)
        return {"linear": networks.Linear, "mlp": networks.Mlp}[self.network](shape)

    def parameters(self, shape: TapShape) -> int:
        """Trainable parameters at these shapes, the classes' linear layer left out."""
        if self.network == "adaptor":
            config = adaptor_config(shape)
            return config.parameter_count() - shape.classes * (config.head_dim + 1)
        from benchmarks.methods.networks import parameter_count

        width = 256 if self.network == "mlp" else shape.dim
        return parameter_count(self.build(shape)) - shape.classes * (width + 1)


def adaptor_config(shape: TapShape) -> AdaptorConfig:
    """Our adaptor at its defaults."""
    from trainer_lite.config import TrainConfig

    return TrainConfig().adaptor_config(
        tokens=shape.tokens,
        prefix_tokens=shape.prefix_tokens,
        embed_dim=shape.dim,
        classes=shape.classes,
        norm_eps=1e-6,
        input_rms=1.0,
    )


METHODS = [
    Method("linear-cls", "linear probe, class token", "linear", "sum", "cls"),
    Method("linear-mean", "linear probe, mean", "linear", "sum", "mean"),
    Method("last-cls", "last tap alone, class token", "linear", "last", "cls"),
    Method("last-mean", "last tap alone, mean", "linear", "last", "mean"),
    Method("mlp", "MLP, class token and mean", "mlp", "sum", "both"),
    Method("lst", "LST, every tap", "lst", "taps", "mean"),
    Method("last", "LAST, every tap", "last", "taps", "mean"),
    Method("adaptor", "edgetune, the sum", "adaptor", "map", "both"),
]
BY_NAME = {method.name: method for method in METHODS}
