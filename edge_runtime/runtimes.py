"""Which runtime computes an adaptor: told by the file, whatever its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.adaptor import Adaptor
from edge_runtime.errors import MismatchError

if TYPE_CHECKING:
    from edge_runtime.classifier import Classifier

RUNTIMES = {"numpy": "safetensors", "onnxruntime": "onnx", "tflite": "tflite"}


def open_adaptor(path: Path, runtime: str | None = None) -> Classifier:
    """An adaptor file, or a graph of one, ready to predict.

    Args:
        runtime: a key of RUNTIMES that the file must be for; by default whichever it is for.

    Raises:
        MismatchError: the file is for another runtime.
        FormatError: not a file of ours, or damaged.
        MissingExtraError: the runtime is not installed.
    """
    found = runtime_of(path)
    if runtime not in (None, found):
        what = "an adaptor file" if found == "numpy" else f"a graph for {found}"
        remedy = (
            "give the adaptor file that it was exported from"
            if runtime == "numpy"
            else f"write one with `edgetune export-adaptor --format {RUNTIMES[str(runtime)]}`"
        )
        raise MismatchError(f"{path} is {what}, and {runtime} was asked for; {remedy}")
    if found == "numpy":
        return Adaptor.load(path)
    from edge_runtime.graph_adaptor import GraphAdaptor  # zipfile and more, for those who need it

    return GraphAdaptor(path, found)


def runtime_of(path: Path) -> str:
    """The runtime that a file is for, by its first bytes; numpy where they are none we know."""
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError:
        return "numpy"  # whose reader says what is wrong
    if start[4:8] == b"TFL3":
        return "tflite"
    if start[:1] == b"\x08" and start[8:9] != b"{":  # ONNX begins with its ir_version
        return "onnxruntime"
    return "numpy"
