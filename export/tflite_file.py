"""A .tflite file put together from tensors and operators, with the schema of ai-edge-litert.

Written directly because nothing else gives a batch of any size: converting a torch module fixes
it, and brings two gigabytes. The runtime must be there anyway to verify the file, and it carries
the schema's classes.
"""

from __future__ import annotations

import importlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime import formats
from edge_runtime.errors import require
from edge_runtime.graph_runners import METADATA
from export.adaptor_graph import PRODUCER

Array = np.ndarray[Any, Any]

ALIGNMENT = 16  # bytes, of every tensor's data in the file, as the schema asks
IDENTIFIER = b"TFL3"
LABELS = "labels.txt"
SCHEMA_VERSION = 3
LARGEST_OLD_CODE = 127  # operators beyond it are named in a newer field alone
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the zip format wants a time
# The class of an operator's options, where it has any, and the first version that does what we ask.
OPERATORS = {
    "ADD": ("AddOptions", 1),
    "BATCH_MATMUL": ("BatchMatMulOptions", 1),
    "CAST": (None, 1),
    "DEQUANTIZE": (None, 5),
    "FULLY_CONNECTED": ("FullyConnectedOptions", 2),
    "MEAN": ("ReducerOptions", 1),
    "MUL": ("MulOptions", 1),
    "RESHAPE": ("ReshapeOptions", 1),
    "RSQRT": (None, 1),
    "SLICE": (None, 1),
    "SOFTMAX": ("SoftmaxOptions", 1),
    "SPLIT": ("SplitOptions", 1),
    "SUB": ("SubOptions", 1),
    "TRANSPOSE": (None, 1),
}


class TfliteFile:
    """Tensors and operators, each named by its index, in the order in which they run."""

    def __init__(self) -> None:
        self._schema: Any = require("ai_edge_litert.schema_py_generated", extra="tflite")
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[str, int] = {}
        self._data: list[Array | None] = [None]  # of each buffer; the first belongs to no constant

    def value(self, name: str, dtype: np.dtype[Any], shape: Sequence[int]) -> int:
        """A tensor [batch, *shape], the batch of any size."""
        index = self.fixed(name, dtype, (1, *shape))
        self._tensors[index].shapeSignature = [-1, *shape]
        return index

    def fixed(self, name: str, dtype: np.dtype[Any], shape: Sequence[int]) -> int:
        """A tensor of this shape, whatever the batch."""
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape, tensor.hasRank = name, list(shape), True
        tensor.type = getattr(self._schema.TensorType, dtype.name.upper())
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def constant(self, name: str, array: Array, scale: Array | None = None, axis: int = 0) -> int:
        """A tensor with data; in int8, its scales along `axis`."""
        index = self.fixed(name, array.dtype, array.shape)
        self._tensors[index].buffer = len(self._data)
        self._data.append(np.frombuffer(array.tobytes(), np.uint8))
        if scale is not None:
            how = self._schema.QuantizationParametersT()
            how.scale, how.zeroPoint = scale, np.zeros(len(scale), np.int64)
            how.quantizedDimension = axis
            self._tensors[index].quantization = how
        return index

    def operator(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any
    ) -> None:
        """Appends an operator; options as the schema's classes name them."""
        added = self._schema.OperatorT()
        added.opcodeIndex = self._codes.setdefault(kind, len(self._codes))
        added.inputs, added.outputs = list(inputs), list(outputs)
        name = OPERATORS[kind][0]
        if name is not None:
            added.builtinOptionsType = getattr(self._schema.BuiltinOptions, name)
            added.builtinOptions = getattr(self._schema, f"{name}T")()
            for option, setting in options.items():
                setattr(added.builtinOptions, option, setting)
        self._operators.append(added)

    def rename(self, index: int, name: str) -> None:
        """Gives a tensor another name."""
        self._tensors[index].name = name

    def finish(
        self, inputs: Sequence[int], outputs: Sequence[int], description: formats.Json
    ) -> bytes:
        """The file: the model and, behind it in a zip, its description and its labels.

        That is where TFLite keeps the files that go with a model; a runtime reads the model alone.
        """
        flatbuffers: Any = importlib.import_module("flatbuffers")
        builder = flatbuffers.Builder(1 << 16)
        graph = self._model(inputs, outputs, builder)
        builder.Finish(graph.Pack(builder), IDENTIFIER)
        model = bytes(builder.Output())
        described = formats.canonical({**description, "model_crc32": zlib.crc32(model)})
        labels = "".join(f"{name}\n" for name in description["classes"])
        packed = io.BytesIO()
        packed.write(model)
        with zipfile.ZipFile(packed, "a") as archive:
            archive.writestr(zipfile.ZipInfo(METADATA, LONG_AGO), described)
            archive.writestr(zipfile.ZipInfo(LABELS, LONG_AGO), labels.encode(errors="replace"))
        return packed.getvalue()

    def _model(self, inputs: Sequence[int], outputs: Sequence[int], builder: Any) -> Any:
        schema = self._schema
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = PRODUCER, self._tensors, self._operators
        graph.inputs, graph.outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version, model.description = SCHEMA_VERSION, PRODUCER
        model.operatorCodes = [self._code(kind) for kind in self._codes]
        model.subgraphs = [graph]
        model.buffers = [Packed(self._buffer(data, builder)) for data in self._data]
        return model

    def _code(self, kind: str) -> Any:
        code = self._schema.OperatorCodeT()
        code.builtinCode = getattr(self._schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, LARGEST_OLD_CODE)
        code.version = OPERATORS[kind][1]
        return code

    def _buffer(self, data: Array | None, builder: Any) -> int:
        """Writes one buffer and returns its offset; the schema's own class does not align it."""
        vector = 0
        if data is not None:
            builder.StartVector(1, len(data), ALIGNMENT)
            builder.head = builder.Head() - len(data)
            builder.Bytes[builder.Head() : builder.Head() + len(data)] = data.tobytes()
            vector = builder.EndVector()
        self._schema.BufferStart(builder)
        if data is not None:
            self._schema.BufferAddData(builder, vector)
        return int(self._schema.BufferEnd(builder))


class Packed:
    """Stands for an object that is in the builder already."""

    def __init__(self, offset: int):
        self.offset = offset

    def Pack(self, builder: Any) -> int:
        return self.offset
