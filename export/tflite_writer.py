"""Writes the adaptor's graph as TFLite's built-in operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime import formats
from export.adaptor_graph import Shape
from export.quantize import store
from export.tflite_file import TfliteFile

Array = np.ndarray[Any, Any]

FLOAT32 = np.dtype(np.float32)


class TfliteWriter:
    """The operations of `adaptor_graph.Writer`; LayerNorm takes eight operators here."""

    def __init__(self, quantize: str) -> None:
        self.quantize = quantize
        self._file = TfliteFile()
        self._index: dict[str, int] = {}
        self._shapes: dict[str, Shape] = {}  # of one image, without the batch
        self._inputs: list[int] = []
        self._outputs: list[int] = []

    def input(self, name: str, dtype: np.dtype[Any], shape: Shape) -> str:
        self._inputs.append(self._value(name, dtype, shape))
        return name

    def output(self, value: str, name: str, shape: Shape) -> None:
        self._file.rename(self._index[value], name)
        self._outputs.append(self._index[value])

    def to_float(self, value: str, dtype: np.dtype[Any]) -> str:
        kind = "DEQUANTIZE" if dtype == np.float16 else "CAST"
        return self._node(kind, [value], self._shapes[value])

    def scale(self, value: str, factor: float) -> str:
        return self._node("MUL", [value, self._constant([factor])], self._shapes[value])

    def add(self, left: str, right: str) -> str:
        return self._binary("ADD", left, right)

    def multiply(self, left: str, right: str) -> str:
        return self._binary("MUL", left, right)

    def layer_norm(self, value: str, weight: Array, bias: Array, eps: float, name: str) -> str:
        shape = self._shapes[value]
        centred = self._binary("SUB", value, self._mean_last(value))
        variance = self._mean_last(self.multiply(centred, centred))
        shifted = self._node("ADD", [variance, self._constant([eps])], self._shapes[variance])
        normed = self.multiply(centred, self._node("RSQRT", [shifted], self._shapes[shifted]))
        scaled = self._node("MUL", [normed, self._constant(weight, f"{name}.weight")], shape)
        return self._node("ADD", [scaled, self._constant(bias, f"{name}.bias")], shape)

    def linear(self, value: str, matrix: Array, bias: Array | None, name: str) -> str:
        inputs = [value, self._matrix(matrix, name)]
        if bias is not None:
            inputs.append(self._constant(bias, f"{name}.bias"))
        shape = (*self._shapes[value][:-1], matrix.shape[1])
        return self._node("FULLY_CONNECTED", inputs, shape, keepNumDims=True)

    def split(self, value: str, parts: int) -> Sequence[str]:
        *first, width = self._shapes[value]
        axis = self._constant(np.int32(len(first) + 1))
        shapes = [(*first, width // parts)] * parts
        return self._nodes("SPLIT", [axis, value], shapes, numSplits=parts)

    def reshape(self, value: str, shape: Shape) -> str:
        wanted = [-1, *shape]
        return self._node("RESHAPE", [value, self._indices(wanted)], shape, newShape=wanted)

    def transpose(self, value: str, axes: Shape) -> str:
        order = self._indices([0, *(axis + 1 for axis in axes)])
        shape = tuple(self._shapes[value][axis] for axis in axes)
        return self._node("TRANSPOSE", [value, order], shape)

    def matmul(self, left: str, right: str) -> str:
        shape = (*self._shapes[left][:-1], self._shapes[right][-1])
        return self._node("BATCH_MATMUL", [left, right], shape)

    def matmul_transposed(self, left: str, right: str) -> str:
        shape = (*self._shapes[left][:-1], self._shapes[right][-2])
        return self._node("BATCH_MATMUL", [left, right], shape, adjY=True)

    def softmax(self, value: str) -> str:
        return self._node("SOFTMAX", [value], self._shapes[value], beta=1.0)

    def mean_tokens(self, value: str, first: int, count: int) -> str:
        _, width = self._shapes[value]
        bounds = [self._indices([0, first, 0]), self._indices([-1, count, width])]
        part = self._node("SLICE", [value, *bounds], (count, width))
        return self._node("MEAN", [part, self._indices([1])], (width,), keepDims=False)

    def finish(self, description: formats.Json) -> bytes:
        return self._file.finish(self._inputs, self._outputs, description)

    def _mean_last(self, value: str) -> str:
        *first, _ = self._shapes[value]
        axis = self._indices([len(first) + 1])
        return self._node("MEAN", [value, axis], (*first, 1), keepDims=True)

    def _binary(self, kind: str, left: str, right: str) -> str:
        shape = np.broadcast_shapes(self._shapes[left], self._shapes[right])
        return self._node(kind, [left, right], shape)

    def _matrix(self, matrix: Array, name: str) -> str:
        """A weight (out, in) as it is stored, and what restores it to float32."""
        stored = store(matrix, self.quantize, name).transposed()
        index = self._file.constant(name, stored.values, stored.scale, stored.axis)
        self._index[name] = index
        if self.quantize == "none":
            return name
        restored = f"{name}.restored"
        self._index[restored] = self._file.fixed(restored, FLOAT32, stored.values.shape)
        self._file.operator("DEQUANTIZE", [index], [self._index[restored]])
        return restored

    def _constant(self, array: Any, name: str = "") -> str:
        """A float32 constant, or integers as they are; without a name it gets a number."""
        name = name or f"constant.{len(self._index)}"
        values = np.asarray(array)
        if values.dtype.kind == "f":
            values = values.astype(np.float32)
        self._index[name] = self._file.constant(name, values)
        return name

    def _indices(self, numbers: Sequence[int]) -> str:
        return self._constant(np.array(numbers, np.int32))

    def _value(self, name: str, dtype: np.dtype[Any], shape: Shape) -> int:
        self._shapes[name] = shape
        self._index[name] = self._file.value(name, dtype, shape)
        return self._index[name]

    def _node(self, kind: str, inputs: Sequence[str], shape: Shape, **options: Any) -> str:
        return self._nodes(kind, inputs, [shape], **options)[0]

    def _nodes(
        self, kind: str, inputs: Sequence[str], shapes: Sequence[Shape], **options: Any
    ) -> list[str]:
        """Appends an operator with an output of each shape, named after it."""
        names = [f"{kind.lower()}.{len(self._index) + part}" for part in range(len(shapes))]
        outputs = [self._value(name, FLOAT32, shape) for name, shape in zip(names, shapes)]
        inputs_at = [self._index[name] for name in inputs]
        self._file.operator(kind, inputs_at, outputs, **options)
        return names
