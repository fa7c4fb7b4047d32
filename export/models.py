"""Loading a timm model: from a checkpoint file, timm's local-dir form, the hub, or at random."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_runtime import formats
from edge_runtime.errors import ExportError
from export import checkpoints, hub
from export.torchvision_repair import import_timm

SEED = 0  # of --random-weights


@dataclass(frozen=True)
class Loaded:
    """A timm model in evaluation mode, float32, and where its weights are from.

    `source` is `checkpoint`, `hub` or `random`; `size` is the side of its square input in pixels.
    """

    model: nn.Module
    name: str
    source: str
    checkpoint_sha256: str | None
    size: int


def load_model(
    name: str,
    checkpoint: Path | None = None,
    random_weights: bool = False,
    image_size: int | None = None,
) -> Loaded:
    """Builds the timm model `name` with its weights, ready to be frozen.

    Raises:
        ExportError: unknown name, weights that are missing or do not fit, hub unreachable, or an
            input that is not a square RGB image.
    """
    if checkpoint is not None and random_weights:
        raise ExportError("--checkpoint and --random-weights exclude each other; give one of them")
    timm = import_timm()
    sha256 = None
    if checkpoint is not None:
        file = checkpoints.find_file(checkpoint)
        source = "checkpoint"
        model = _from_checkpoint(timm, name, checkpoint, file, image_size)
        sha256 = formats.file_sha256(file)
    else:
        _check_name(timm, name)
        source = "random" if random_weights else "hub"
        build = _at_random if random_weights else _from_hub
        model = build(timm, name, image_size)
    size = _input_size(name, model, image_size)
    if source == "hub" or (checkpoint is not None and checkpoint.is_dir()):
        name = _full_name(name, model)
    return Loaded(model.eval().float().requires_grad_(False), name, source, sha256, size)


def _check_name(timm: Any, name: str) -> None:
    """Refuses a name or tag that timm does not know, with near matches."""
    architecture = name.partition(".")[0]
    known = timm.is_model(architecture) and not set(name) & set(":/\\")
    if known and (name == architecture or _registered(timm, name) is not None):
        return
    if known:
        near = timm.list_models(f"{architecture}.*", pretrained=True)
    else:
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
    hint = f"; near: {', '.join(near[:3])}" if near else ""
    raise ExportError(f"timm knows no model {name!r}{hint}")


def _registered(timm: Any, name: str) -> Any:
    """Configuration that timm has for a name, with or without a tag; None where it has none."""
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:
        return None


def _create(timm: Any, name: str, image_size: int | None, **options: Any) -> nn.Module:
    """`timm.create_model`, with `img_size` for the models that are built for one size."""
    if image_size is None:
        model: nn.Module = timm.create_model(name, **options)
        return model
    try:
        model = timm.create_model(name, img_size=image_size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        model = timm.create_model(name, **options)  # a convolutional model takes any size
    return model


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _at_random(timm: Any, name: str, image_size: int | None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        try:
            return _create(timm, name, image_size)
        except Exception as error:  # each architecture refuses a size in its own way
            raise ExportError(f"{name} cannot be built: {_first_line(error)}") from None


def _from_hub(timm: Any, name: str, image_size: int | None) -> nn.Module:
    otherwise = "give --checkpoint with a file or folder, or --random-weights for a trial"
    config = _registered(timm, name)
    if config is None or not config.has_weights:
        raise ExportError(f"timm has no pretrained weights for {name}; {otherwise}")
    with hub.offline_if_unreachable() as endpoint:
        try:
            return _create(timm, name, image_size, pretrained=True)
        except OSError:
            raise ExportError(
                f"the weights of {name} are not cached and {endpoint} cannot be reached; "
                f"{otherwise}"
            ) from None
        except Exception as error:  # each architecture refuses a size in its own way
            raise ExportError(f"{name} cannot be built: {_first_line(error)}") from None


def _from_checkpoint(
    timm: Any, name: str, checkpoint: Path, file: Path, image_size: int | None
) -> nn.Module:
    """Loads `file` strictly; a classifier of another width, or none, is fine: nobody uses it."""
    if checkpoint.is_dir():
        config = checkpoints.read_config(checkpoint)
        _check_architecture(name, checkpoint, config)
        _check_name(timm, config["architecture"])
        target = f"local-dir:{checkpoint}"
        pretrained = config.get("pretrained_cfg") or {}
        classifier = pretrained.get("classifier", config.get("classifier"))
    else:
        _check_name(timm, name)
        target = name
        registered = _registered(timm, name)
        classifier = registered.classifier if registered is not None else None
    shapes = checkpoints.read_shapes(file)
    classes = checkpoints.classes_in(shapes, classifier)
    failure: Exception | None = None
    for attempt in (classes, 0):
        overlay: dict[str, Any] = {"file": str(file), "source": ""}
        options: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": overlay}
        if attempt is not None:
            overlay["num_classes"] = options["num_classes"] = attempt
        try:
            return _create(timm, target, image_size, **options)
        except Exception as error:  # load_state_dict, timm's filters, sizes a model refuses
            failure = failure or error
    built = _create(timm, target, None).state_dict()
    reason = checkpoints.mismatch({key: tuple(t.shape) for key, t in built.items()}, shapes)
    if not reason or failure is None:
        reason = _first_line(failure or ValueError())
    raise ExportError(f"checkpoint {checkpoint} does not fit {name}: {reason}")


def _check_architecture(name: str, folder: Path, config: dict[str, Any]) -> None:
    """MODEL and the config.json beside the weights must speak of the same model."""
    architecture, _, tag = name.partition(".")
    found = config["architecture"]
    found_tag = (config.get("pretrained_cfg") or {}).get("tag") or ""
    if architecture != found or (tag and found_tag and tag != found_tag):
        real = f"{found}.{found_tag}" if found_tag else found
        raise ExportError(f"{folder} holds a {real}, not a {name}; give MODEL as {real}")


def _full_name(name: str, model: nn.Module) -> str:
    """The name with its tag, where the weights came with one."""
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    tag = config.get("tag") or ""
    return f"{name}.{tag}" if tag and "." not in name else name


def _input_size(name: str, model: nn.Module, image_size: int | None) -> int:
    """Side of the square input in pixels, from what the weights were trained on or `image_size`."""
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    channels, height, width = config.get("input_size", (3, 224, 224))
    if image_size is not None:
        height = width = image_size
    if channels != 3 or height != width:
        raise ExportError(
            f"{name} wants images of {channels} x {height} x {width}; only square RGB input is "
            "supported: choose another model, or --image-size"
        )
    return int(height)
