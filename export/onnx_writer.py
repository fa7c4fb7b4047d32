"""Writes the adaptor's graph as ONNX."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime import formats
from edge_runtime.graph_runners import METADATA
from export.adaptor_graph import PRODUCER, Shape
from export.quantize import store

Array = np.ndarray[Any, Any]

OPSET = 17  # the first with LayerNormalization
IR_VERSION = 8


class OnnxWriter:
    """The operations of `adaptor_graph.Writer`, each one ONNX node or two."""

    def __init__(self, quantize: str) -> None:
        self.quantize = quantize
        self._onnx: Any = importlib.import_module("onnx")
        self._nodes: list[Any] = []
        self._tensors: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, dtype: np.dtype[Any], shape: Shape) -> str:
        self._inputs.append(self._end(name, dtype, shape))
        return name

    def output(self, value: str, name: str, shape: Shape) -> None:
        self._nodes.append(self._onnx.helper.make_node("Identity", [value], [name], name))
        self._outputs.append(self._end(name, np.dtype(np.float32), shape))

    def to_float(self, value: str, dtype: np.dtype[Any]) -> str:
        return self._node("Cast", value, to=self._onnx.TensorProto.FLOAT)

    def scale(self, value: str, factor: float) -> str:
        return self._node("Mul", value, self._constant(np.float32(factor), "factor"))

    def add(self, left: str, right: str) -> str:
        return self._node("Add", left, right)

    def multiply(self, left: str, right: str) -> str:
        return self._node("Mul", left, right)

    def layer_norm(self, value: str, weight: Array, bias: Array, eps: float, name: str) -> str:
        gamma, beta = self._named(weight, f"{name}.weight"), self._named(bias, f"{name}.bias")
        return self._node("LayerNormalization", value, gamma, beta, epsilon=eps, axis=-1)

    def linear(self, value: str, matrix: Array, bias: Array | None, name: str) -> str:
        product = self._node("MatMul", value, self._matrix(matrix, name))
        return product if bias is None else self.add(product, self._named(bias, f"{name}.bias"))

    def split(self, value: str, parts: int) -> Sequence[str]:
        first = self._node("Split", value, axis=-1)
        self._nodes[-1].output.extend(f"{first}.{part}" for part in range(1, parts))
        return list(self._nodes[-1].output)

    def reshape(self, value: str, shape: Shape) -> str:
        return self._node("Reshape", value, self._constant(np.array([-1, *shape]), "shape"))

    def transpose(self, value: str, axes: Shape) -> str:
        return self._node("Transpose", value, perm=[0, *(axis + 1 for axis in axes)])

    def matmul(self, left: str, right: str) -> str:
        return self._node("MatMul", left, right)

    def matmul_transposed(self, left: str, right: str) -> str:
        return self.matmul(left, self.transpose(right, (0, 2, 1)))

    def softmax(self, value: str) -> str:
        return self._node("Softmax", value, axis=-1)

    def mean_tokens(self, value: str, first: int, count: int) -> str:
        bounds = [self._constant(np.array([n]), "bound") for n in (first, first + count, 1)]
        return self._node("ReduceMean", self._node("Slice", value, *bounds), axes=[1], keepdims=0)

    def finish(self, description: formats.Json) -> bytes:
        helper = self._onnx.helper
        model = helper.make_model(
            helper.make_graph(self._nodes, PRODUCER, self._inputs, self._outputs, self._tensors),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name=PRODUCER,
        )
        helper.set_model_props(model, {METADATA: formats.canonical(description).decode()})
        self._onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))

    def _end(self, name: str, dtype: np.dtype[Any], shape: Shape) -> Any:
        """An input or output of the graph, with the batch as its first axis."""
        helper = self._onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        return helper.make_tensor_value_info(name, kind, ["batch", *shape])

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node with one output, which is named after it."""
        name = f"{kind}.{len(self._nodes)}"
        self._nodes.append(
            self._onnx.helper.make_node(kind, list(inputs), [name], name, **attributes)
        )
        return name

    def _named(self, array: Array, name: str) -> str:
        self._tensors.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _constant(self, array: Array | np.generic, kind: str) -> str:
        return self._named(np.asarray(array), f"{kind}.{len(self._tensors)}")

    def _matrix(self, matrix: Array, name: str) -> str:
        """A weight as it is stored, and what restores it to float32.

        Not by DequantizeLinear: onnxruntime would take that as leave to quantise activations too.
        """
        stored = store(matrix, self.quantize, name)
        value = self._named(stored.values, name)
        if self.quantize == "none":
            return value
        value = self.to_float(value, stored.values.dtype)
        if stored.scale is None:
            return value
        scale = np.expand_dims(stored.scale, 1 - stored.axis)
        return self.multiply(value, self._named(scale, f"{name}.scale"))
