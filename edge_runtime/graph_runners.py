"""Runs the graph of an adaptor: onnxruntime for .onnx; for .tflite LiteRT, or tflite-runtime.

Each runner is opened on a file, tells the metadata that lies in it, and turns stored features and
their scales into probabilities. They use one thread: an image's work is about 20 million MACs, for
which waking others does not pay.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge_runtime import formats
from edge_runtime.errors import ConfigError, DataError, FormatError, MissingExtraError, require

Array = np.ndarray[Any, Any]
Ends = dict[str, tuple[str, list[int]]]

FEATURES, SCALE, PROBABILITIES = "features", "scale", "probabilities"
METADATA = "edgetune.json"  # key of the metadata in ONNX, file in the zip behind a .tflite
ONNX_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int8)": "int8"}
REMEDY = "export the adaptor again"


class Runner(Protocol):
    """An opened graph."""

    metadata: formats.Json

    @property
    def ends(self) -> Ends:
        """(dtype, shape without the batch) of each input and output, by name."""

    def run(self, inputs: dict[str, Array]) -> Array:
        """Probabilities (n, classes) of inputs that each have n as their first axis."""


class OnnxRunner:
    """A .onnx file in onnxruntime."""

    def __init__(self, path: Path):
        onnxruntime = require("onnxruntime", extra="ort")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own classes, which share no public root
            raise FormatError(
                f"{path}: onnxruntime cannot load it ({first_line(error)}); {REMEDY}"
            ) from None
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA)
        if text is None:
            raise no_metadata(path)
        self.metadata = parse_metadata(text.encode(), path)

    @property
    def ends(self) -> Ends:
        found = (*self._session.get_inputs(), *self._session.get_outputs())
        return {end.name: (ONNX_TYPES.get(end.type, end.type), end.shape[1:]) for end in found}

    def run(self, inputs: dict[str, Array]) -> Array:
        try:
            (probabilities,) = self._session.run([PROBABILITIES], inputs)
        except Exception as error:
            raise DataError(f"onnxruntime failed: {first_line(error)}") from None
        return probabilities


class TfliteRunner:
    """A .tflite file in LiteRT or tflite-runtime."""

    def __init__(self, path: Path):
        self.metadata = zipped_metadata(path)
        interpreter = tflite_interpreter()
        try:
            with quiet_stderr():
                self._interpreter = interpreter(model_path=str(path), num_threads=1)
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise FormatError(
                f"{path}: the TFLite runtime cannot load it ({first_line(error)}); {REMEDY}"
            ) from None
        self._batch = 1
        self._indices = {end["name"]: end["index"] for end in self._details()}

    @property
    def ends(self) -> Ends:
        return {
            end["name"]: (np.dtype(end["dtype"]).name, [int(n) for n in end["shape"][1:]])
            for end in self._details()
        }

    def run(self, inputs: dict[str, Array]) -> Array:
        batch = len(inputs[FEATURES])
        try:
            if batch != self._batch:
                for name, array in inputs.items():
                    self._interpreter.resize_tensor_input(self._indices[name], array.shape)
                with quiet_stderr():
                    self._interpreter.allocate_tensors()
                self._batch = batch
            for name, array in inputs.items():
                self._interpreter.set_tensor(self._indices[name], array)
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise DataError(f"the TFLite runtime failed: {first_line(error)}") from None
        probabilities: Array = self._interpreter.get_tensor(self._indices[PROBABILITIES])
        return probabilities

    def _details(self) -> list[Any]:
        found: list[Any] = self._interpreter.get_input_details()
        return found + self._interpreter.get_output_details()


def tflite_interpreter() -> Any:
    """The class `Interpreter` of ai-edge-litert, or of its predecessor tflite-runtime.

    Raises:
        MissingExtraError: neither is installed. ConfigError: tflite-runtime beside numpy 2.
    """
    try:
        return require("ai_edge_litert.interpreter", extra="tflite").Interpreter
    except MissingExtraError as missing:
        try:
            module = require("tflite_runtime.interpreter", extra="tflite-runtime")
        except MissingExtraError:
            raise missing from None
    if int(np.__version__.split(".")[0]) > 1:
        raise ConfigError(
            f"tflite-runtime needs numpy below 2, here is {np.__version__}: install numpy<2, or "
            f"its successor: pip install 'edgetune[tflite]'"
        )
    return module.Interpreter


def zipped_metadata(path: Path) -> formats.Json:
    """The metadata in the zip behind a .tflite model.

    Raises:
        FormatError: missing or damaged, or the model is: a runtime trusts what it reads.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(METADATA)
            if entry.file_size > formats.MAX_JSON_BYTES:
                raise FormatError(f"{path}: its metadata is larger than ours can be; {REMEDY}")
            content = parse_metadata(archive.read(entry), path)
            model_bytes = min(member.header_offset for member in archive.infolist())
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError):
        raise no_metadata(path) from None
    with open(path, "rb") as file:
        if zlib.crc32(file.read(model_bytes)) != content.get("model_crc32"):
            raise FormatError(f"{path}: its CRC-32 is not that of its metadata; {REMEDY}")
    return content


def parse_metadata(text: bytes, path: Path) -> formats.Json:
    """The metadata, its format and version checked."""
    content = formats.parse_json(text, path, "its metadata")
    formats.check_version(content, formats.GRAPH, path)
    return content


def no_metadata(path: Path) -> FormatError:
    """What is said of a model that is none of ours."""
    return FormatError(
        f"{path}: it has no metadata of edgetune, or is cut off; give a file that "
        f"`edgetune export-adaptor` wrote"
    )


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keeps what a C++ library says of itself on its start off the terminal."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def first_line(error: BaseException) -> str:
    """The first line of what an exception says."""
    lines = str(error).splitlines()
    return lines[0].strip() if lines else type(error).__name__
