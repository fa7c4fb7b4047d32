"""Finding the blocks whose outputs are summed, through timm's own `feature_info`.

A model whose taps all have one shape (ViT, DeiT, DINOv2, EVA, BEiT, CLIP, SigLIP, mixers ...) is
summed over all its blocks. A hierarchical one (Swin, ConvNeXt ...) is summed over the blocks of its
last stage, where alone the shapes agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edge_runtime.errors import ExportError


@dataclass(frozen=True)
class Taps:
    """Module names of the blocks, in order, and what their outputs look like.

    `stage` names the last stage of a hierarchical model and is empty otherwise; `index` is its
    place among timm's intermediates. `channels_last` tells [B, H, W, C] from [B, C, H, W].
    """

    names: tuple[str, ...]
    stage: str
    index: int
    tokens: int
    prefix_tokens: int
    embed_dim: int
    channels_last: bool
    norm_eps: float

    @property
    def hierarchical(self) -> bool:
        return bool(self.stage)


def find_taps(name: str, model: nn.Module, size: int) -> Taps:
    """Finds the blocks of a timm model and checks that their outputs can be added.

    Args:
        name: the model's name, for messages.
        model: in evaluation mode, not pruned.
        size: side of the input in pixels.

    Raises:
        ExportError: no interface of timm to find the blocks by, or shapes that differ.
    """
    info = feature_info(name, model)
    # timm counts reduction in pixels a token: where it differs, so does the number of tokens
    if len({(entry["num_chs"], entry.get("reduction")) for entry in info}) == 1:
        stage, names = "", tuple(str(entry["module"]) for entry in info)
    else:
        stage = str(info[-1]["module"])
        names = stage_blocks(name, model, stage)
    for block in names:
        submodule(name, model, block)
    shapes = tap_shapes(name, model, size, names, len(info) - 1)
    check_shapes(name, shapes)
    shape = shapes[0][1]
    embed_dim = int(info[-1]["num_chs"])
    channels_last = is_channels_last(name, model, shape, embed_dim)
    tokens = shape[1] if len(shape) == 3 else shape.numel() // embed_dim
    prefix = prefix_tokens(name, model, size, len(info) - 1, tokens)
    return Taps(
        names=names,
        stage=stage,
        index=len(info) - 1,
        tokens=tokens,
        prefix_tokens=prefix,
        embed_dim=embed_dim,
        channels_last=channels_last,
        norm_eps=norm_epsilon(model, names),
    )


def feature_info(name: str, model: nn.Module) -> list[dict[str, Any]]:
    """The intermediates timm lists for a model: `module`, `num_chs`, `reduction` of each."""
    info: Any = getattr(model, "feature_info", None)
    entries = getattr(info, "info", info)
    if not entries or not hasattr(model, "forward_intermediates"):
        raise ExportError(
            f"{name} cannot be summed: timm offers no intermediates for it "
            "(feature_info, forward_intermediates); choose another model"
        )
    return [dict(entry) for entry in entries]


def submodule(name: str, model: nn.Module, path: str) -> nn.Module:
    """A module that timm's feature_info names."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise ExportError(
            f"{name} cannot be summed: timm's feature_info names {path}, which the model has not; "
            "choose another model"
        ) from None


def stage_blocks(name: str, model: nn.Module, stage: str) -> tuple[str, ...]:
    """Module names of the blocks in the last stage: its list of modules, or the stage itself."""
    module = submodule(name, model, stage)
    containers = (nn.Sequential, nn.ModuleList)
    lists = {key: child for key, child in module.named_children() if isinstance(child, containers)}
    if isinstance(module, containers):
        prefix, length = stage, len(module)
    else:
        longest = max(lists, key=lambda key: len(lists[key]), default="")
        best = "blocks" if "blocks" in lists else longest
        prefix, length = f"{stage}.{best}", len(lists[best]) if best else 0
    if not length:
        raise ExportError(
            f"{name} cannot be summed: its taps differ in shape, and its last stage {stage} "
            f"({type(module).__name__}) holds no list of blocks; choose another model"
        )
    return tuple(f"{prefix}.{index}" for index in range(length))


@contextmanager
def hooked(model: nn.Module, names: Sequence[str]) -> Iterator[list[tuple[str, Any]]]:
    """Collects, while the model runs, the input of the first block and the output of each."""
    taken: list[tuple[str, Any]] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        taken.append((f"input of {names[0]}", args[0] if args else kwargs.get("x")))

    handles = [model.get_submodule(names[0]).register_forward_pre_hook(before, with_kwargs=True)]
    for name in names:

        def after(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            taken.append((name, output))

        handles.append(model.get_submodule(name).register_forward_hook(after))
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


def drive(model: nn.Module, x: Tensor, index: int) -> Any:
    """Runs a timm model [B, 3, S, S] up to intermediate `index` and no further."""
    options = {"indices": [index], "norm": False, "stop_early": True, "intermediates_only": True}
    runner: Any = model
    return runner.forward_intermediates(x, output_fmt="NCHW", **options)


def tap_shapes(
    name: str, model: nn.Module, size: int, names: Sequence[str], index: int
) -> list[tuple[str, torch.Size]]:
    """Runs one black image and returns the shape of z_0 and of each block's output."""
    with torch.inference_mode(), hooked(model, names) as taken:
        try:
            drive(model, torch.zeros(1, 3, size, size), index)
        except Exception as error:  # each architecture refuses a size in its own way
            line = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
            raise ExportError(
                f"{name} cannot be run on images of {size} x {size} pixels: "
                f"{type(error).__name__}: {line}"
            ) from None
    others = [what for what, value in taken if not isinstance(value, Tensor)]
    if others:
        raise ExportError(f"{name} cannot be summed: {others[0]} is not one tensor")
    if len(taken) != len(names) + 1:
        raise ExportError(
            f"{name} cannot be summed: expected {len(names)} blocks to run once each, "
            f"{len(taken) - 1} did"
        )
    return [(what, value.shape) for what, value in taken]


def check_shapes(name: str, shapes: Sequence[tuple[str, torch.Size]]) -> None:
    """Refuses taps of which not all have the same shape, naming the first that differ."""
    what, first = shapes[0]
    for other, shape in shapes[1:]:
        if shape != first:
            raise ExportError(
                f"{name} cannot be summed: {what} is {list(first[1:])} but output of {other} is "
                f"{list(shape[1:])}; choose a model whose blocks keep their shape"
            )
    if len(first) not in (3, 4) or not first.numel():
        raise ExportError(
            f"{name} cannot be summed: its taps have the shape {list(first[1:])}, "
            "expected tokens x channels or a map of channels"
        )


def is_channels_last(name: str, model: nn.Module, shape: torch.Size, embed_dim: int) -> bool:
    """Where the channels of a tap are: timm's `output_fmt` decides where the shape does not."""
    last = shape[-1] == embed_dim
    first = len(shape) == 4 and shape[1] == embed_dim
    if not last and not first:
        raise ExportError(
            f"{name} cannot be summed: its taps {list(shape[1:])} have no axis of the "
            f"{embed_dim} channels that timm declares"
        )
    if last and first:
        return str(getattr(model, "output_fmt", "NCHW")) == "NHWC"
    return last


def prefix_tokens(name: str, model: nn.Module, size: int, index: int, tokens: int) -> int:
    """Class, distillation and register tokens at the head of a tap.

    `model.num_prefix_tokens`, checked against the number of spatial tokens in timm's own map; none
    where the model adds them behind its taps (CaiT, XCiT).
    """
    with torch.inference_mode():
        spatial = drive(model, torch.zeros(1, 3, size, size), index)[-1]
    extra = tokens - spatial.shape[-2] * spatial.shape[-1]
    declared = int(getattr(model, "num_prefix_tokens", 0))
    if extra not in (0, declared):
        raise ExportError(
            f"{name} cannot be summed: its taps hold {tokens} tokens, of which timm declares "
            f"{declared} prefix tokens and {tokens - extra} spatial ones"
        )
    return extra


def norm_epsilon(model: nn.Module, names: Sequence[str]) -> float:
    """The commonest epsilon of the LayerNorms in the blocks; else of any norm; else 1e-6."""
    blocks = [module for name in names for module in model.get_submodule(name).modules()]
    norms = [module for module in blocks if isinstance(module, nn.LayerNorm)] or [
        module for module in blocks if hasattr(module, "eps")
    ]
    counts = Counter(float(module.eps) for module in norms if isinstance(module.eps, float))
    return counts.most_common(1)[0][0] if counts else 1e-6
