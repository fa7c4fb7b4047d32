"""From a TapSum module to the bytes of an ONNX file that are the same every time."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edge_runtime.errors import ExportError
from export.quiet import quiet
from export.tap_sum import TapSum

INPUT, OUTPUT = "images", "features"
OPSET = 18
MAX_BATCH = 1024
PRODUCER = "edgetune"
LIMIT_BYTES = (1 << 31) - (1 << 22)  # a protobuf message ends at 2 GiB; the nodes need some too


@dataclass(frozen=True)
class Graph:
    """A serialized ONNX model, and the module tensors that it was made from."""

    data: bytes
    used: tuple[str, ...]
    opset: int


def export_graph(module: TapSum, size: int) -> Graph:
    """Exports with input `images` uint8 [batch, S, S, 3] and output `features`, batch dynamic.

    Raises:
        ExportError: torch cannot export the model, it passes 2 GiB, or the graph is not as asked.
    """
    check_bytes(module)
    write_out_attention(module)
    onnx: Any = importlib.import_module("onnx")
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    try:
        with quiet(), torch.no_grad(), plain_layers():
            program = torch.export.export(
                module, (example,), dynamic_shapes={INPUT: {0: batch}}, strict=False
            )
            program.graph.eliminate_dead_code()
            used = used_tensors(program)
            exported: Any = torch.onnx.export(
                program,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={INPUT: {0: "batch"}},
                verbose=False,
            )
            model = exported.model_proto
    except Exception as error:  # torch's exporter has dozens
        raise ExportError(f"torch cannot export this model to ONNX: {root(error)}") from None
    strip(model)
    drop_unused_initializers(model.graph)
    check_graph(onnx, model, module, size)
    data = model.SerializeToString(deterministic=True)
    return Graph(data, used, next(entry.version for entry in model.opset_import))


def root(error: BaseException) -> str:
    """Kind and first line of what an exception goes back to."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}"


def check_bytes(module: nn.Module) -> None:
    """Refuses a module whose tensors do not fit one ONNX file."""
    total = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    if total > LIMIT_BYTES:
        raise ExportError(
            f"the graph would hold {total / 2**30:.1f} GiB of weights; files above 2 GiB are not "
            "supported yet: choose a smaller --k or a smaller model"
        )


def write_out_attention(module: nn.Module) -> None:
    """Has timm's attention layers multiply and normalise in plain operators.

    The exporter takes torch's fused attention for tensors with a head axis only, which SAM has not.
    """
    for layer in module.modules():
        if hasattr(layer, "fused_attn"):
            layer.fused_attn = False


@contextlib.contextmanager
def plain_layers() -> Iterator[None]:
    """Switches timm's layers to the form that exporters understand."""
    layers: Any = importlib.import_module("timm.layers")
    with layers.set_exportable(True):
        yield


def used_tensors(program: Any) -> tuple[str, ...]:
    """Names of the parameters and buffers that the exported graph reads."""
    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    return tuple(
        str(spec.target)
        for spec in program.graph_signature.input_specs
        if spec.target is not None and spec.arg.name in read
    )


def strip(model: Any) -> None:
    """Removes what names this machine or this run: stack traces, paths, documentation, producer."""
    model.producer_name, model.producer_version = PRODUCER, ""
    model.domain, model.doc_string = "", ""
    del model.metadata_props[:]
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        strip_nodes(function.node)
    strip_graph(model.graph)
    model.graph.name = PRODUCER


def strip_graph(graph: Any) -> None:
    """As `strip`, for a graph and those inside its nodes."""
    del graph.metadata_props[:]
    del graph.value_info[:]
    graph.doc_string = ""
    for part in (*graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    strip_nodes(graph.node)


def strip_nodes(nodes: Any) -> None:
    """As `strip`, for nodes."""
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
            if attribute.HasField("t"):
                attribute.t.doc_string = ""
                del attribute.t.metadata_props[:]
            if attribute.HasField("g"):
                strip_graph(attribute.g)


def drop_unused_initializers(graph: Any) -> None:
    """Removes weights that no node reads."""
    read = {name for node in graph.node for name in node.input} | {out.name for out in graph.output}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                read |= {name for inner in attribute.g.node for name in inner.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)


def check_graph(onnx: Any, model: Any, module: TapSum, size: int) -> None:
    """Refuses a graph whose input, output or operators are not those of docs/formats.md."""
    kinds = onnx.TensorProto
    output_kind = kinds.FLOAT16 if module.half else kinds.FLOAT
    expected = [
        (INPUT, kinds.UINT8, ["batch", size, size, 3]),
        (OUTPUT, output_kind, ["batch", module.taps.tokens, module.taps.embed_dim]),
    ]
    found = [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in (*model.graph.input, *model.graph.output)
    ]
    if found != expected:
        raise ExportError(f"the exported graph has the wrong ends: {found}, expected {expected}")
    domains = sorted({node.domain for node in model.graph.node if node.domain})
    if domains or model.functions:
        raise ExportError(f"the exported graph needs operators outside ONNX: {domains}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # checker and shape inference have their own
        line = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        raise ExportError(f"the exported graph is not valid ONNX: {line}") from None
