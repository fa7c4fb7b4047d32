"""A model's config.pbtxt, written as the text it is: Triton's own protobuf classes are not needed.

The message is ModelConfig of Triton's model_config.proto. Its parameter `edgetune` holds what our
server publishes with a model's metadata, so that devices recognise the backbone
(edge_runtime/served_model.py); they read it from /v2/models/NAME/config.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime import served_model
from edge_runtime.formats import Json

TYPES = {"BYTES": "TYPE_STRING"}  # the others are TYPE_ and their name


@dataclass(frozen=True)
class Tensor:
    """An input or output, as metadata names it; `shape` includes the batch only without merging."""

    name: str
    datatype: str
    shape: Sequence[int]
    optional: bool = False


@dataclass(frozen=True)
class Scheduling:
    """How Triton runs a model.

    Args:
        max_batch: images that Triton may put together from several requests; 0: it never does.
        wait_us: how long requests wait for company, in microseconds.
        instances: copies of the model that compute side by side.
        kind: where they run: KIND_CPU, or KIND_AUTO: on accelerators where there are any.
    """

    max_batch: int
    wait_us: int
    instances: int
    kind: str


def config_text(
    name: str,
    backend: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    scheduling: Scheduling,
    parameters: Json,
) -> str:
    """The whole of config.pbtxt."""
    parts = [
        f"name: {quoted(name)}",
        f"backend: {quoted(backend)}",
        f"max_batch_size: {scheduling.max_batch}",
        *(tensor_text("input", tensor) for tensor in inputs),
        *(tensor_text("output", tensor) for tensor in outputs),
    ]
    if scheduling.max_batch:
        parts.append(
            f"dynamic_batching {{ max_queue_delay_microseconds: {scheduling.wait_us} }}",
        )
    published = json.dumps(parameters, sort_keys=True, allow_nan=False)
    parts += [
        f"instance_group [ {{ count: {scheduling.instances} kind: {scheduling.kind} }} ]",
        f"parameters {{\n  key: {quoted(served_model.IN_CONFIG)}\n"
        f"  value {{ string_value: {quoted(published)} }}\n}}",
    ]
    return "\n".join(parts) + "\n"


def tensor_text(field: str, tensor: Tensor) -> str:
    """One entry of the repeated field `input` or `output`."""
    datatype = TYPES.get(tensor.datatype, f"TYPE_{tensor.datatype}")
    dims = ", ".join(map(str, tensor.shape))
    optional = " optional: true" if tensor.optional else ""
    name = quoted(tensor.name)
    return f"{field} {{ name: {name} data_type: {datatype} dims: [ {dims} ]{optional} }}"


def quoted(text: str) -> str:
    """Printable ASCII as a string literal of protobuf's text format, whose escapes JSON shares."""
    return json.dumps(text)
