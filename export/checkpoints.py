"""Checkpoint files as they lie on disk: which file, what tensors, what does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.errors import ExportError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
CONFIG = "config.json"
# timm's own order for a folder saved by it
PREFERRED = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
SHOWN = 3  # mismatches named in a message

Shapes = dict[str, tuple[int, ...]]


def find_file(checkpoint: Path) -> Path:
    """The file that holds the weights: `checkpoint` itself, or the one in timm's local-dir form.

    Raises:
        ExportError: nothing there, no weights in the folder, or a suffix that is not known.
    """
    if checkpoint.is_dir():
        found = [checkpoint / name for name in PREFERRED if (checkpoint / name).is_file()]
        found += sorted(path for s in SUFFIXES for path in checkpoint.glob(f"*{s}"))
        if not found:
            raise ExportError(
                f"{checkpoint} holds no weights; expected config.json and model.safetensors "
                "as timm saves them"
            )
        return found[0]
    if not checkpoint.exists():
        raise ExportError(f"checkpoint {checkpoint} does not exist; give a file or a folder")
    if checkpoint.suffix not in SUFFIXES:
        raise ExportError(
            f"checkpoint {checkpoint} is no {', '.join(SUFFIXES)} file; save its state dict as one"
        )
    return checkpoint


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a local-dir checkpoint; it must name an `architecture`."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ExportError(
            f"{folder} has no {CONFIG}; give the weights file itself, or a folder saved by timm"
        ) from None
    except (ValueError, RecursionError):
        raise ExportError(f"{path} is damaged: not JSON") from None
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise ExportError(f"{path} names no `architecture`; expected the config.json timm writes")
    return config


def read_shapes(path: Path) -> Shapes:
    """Names and shapes of the tensors in a checkpoint; pickled code is never run.

    Raises:
        ExportError: the file is damaged, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(str(path), framework="pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        from timm.models import load_state_dict

        state = load_state_dict(str(path), weights_only=True)
        return {name: tuple(t.shape) for name, t in state.items() if hasattr(t, "shape")}
    except Exception as error:  # torch, pickle, zip and safetensors each have their own
        if "nsupported global" in str(error):  # torch, and timm around it
            raise ExportError(
                f"checkpoint {path} holds pickled Python objects besides tensors, and pickled code "
                f"is never run here; save the tensors alone: "
                f'torch.save(model.state_dict(), "{path.name}")'
            ) from None
        first = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        raise ExportError(
            f"checkpoint {path} cannot be read as a state dict of tensors: {first[:200]}"
        ) from None


def classes_in(shapes: Mapping[str, tuple[int, ...]], classifier: Any) -> int | None:
    """Rows of the classifier in a checkpoint; None where it is not under the name timm uses."""
    names = [classifier] if isinstance(classifier, str) else list(classifier or ())
    found = [shapes[f"{name}.weight"] for name in names if f"{name}.weight" in shapes]
    return found[0][0] if found and found[0] else None


def mismatch(model: Shapes, file: Shapes) -> str:
    """The first tensors of a checkpoint that do not fit a model, in one line; empty if all do."""
    said = [
        f"{name} is {list(file[name])} in the file, {list(shape)} in the model"
        for name, shape in model.items()
        if name in file and file[name] != shape
    ]
    said = said[:SHOWN] + ([f"{len(said) - SHOWN} more of another shape"] if said[SHOWN:] else [])
    for label, names in (
        ("not in the file", [name for name in model if name not in file]),
        ("unknown to the model", [name for name in file if name not in model]),
    ):
        if names:
            more = f" and {len(names) - SHOWN} more" if names[SHOWN:] else ""
            said.append(f"{', '.join(names[:SHOWN])}{more} {label}")
    return "; ".join(said)
