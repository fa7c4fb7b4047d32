"""What runs inside Triton's Python backend: the answers of `edgetune serve`, by the same code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from edge_runtime import served_model
from edge_runtime.backbone import Backbone, processors
from edge_runtime.errors import DataError, EdgeError, ProtocolError
from edge_runtime.open_inference import Message, Value
from export.serve.model import ServedModel, Wanted, encode_outputs


class TritonPythonModel:
    """The class that the Python backend looks for, with the methods that it calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the backbone beside model.py, with its share of the processors, and tries it."""
        config = json.loads(args["model_config"])
        instances = sum(group["count"] for group in config["instance_group"])
        published = json.loads(config["parameters"][served_model.IN_CONFIG]["string_value"])
        folder = Path(args["model_repository"]) / args["model_version"] / "backbone"
        backbone = Backbone.open(folder, max(1, processors() // instances), spin=False)
        backbone.verify()
        self._model = ServedModel(backbone, args["model_name"], published["max_batch"])
        _ = self._model.trial

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One answer a request; a request that cannot be used gets its own error."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            return self._response(request)
        except (ProtocolError, DataError) as error:
            return failed(str(error), triton.TritonError.INVALID_ARG)
        except EdgeError as error:
            return failed(str(error), triton.TritonError.INTERNAL)

    def _response(self, request: Any) -> Any:
        model = self._model
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        values: dict[str, Value] = {
            name: list(map(bytes, value.reshape(-1))) if value.dtype == object else value
            for name, value in given.items()
        }
        images = model.read_inputs(Message({}, values))
        pixels = model.decode(images) if isinstance(images, list) else images
        asked = Wanted({name: model.outputs[name] for name in request.requested_output_names()}, ())
        found = encode_outputs(model.run(pixels), model.backbone.prefix_tokens, asked)
        tensors = [
            triton.Tensor(name, np.ascontiguousarray(value)) for name, value in found.items()
        ]
        return triton.InferenceResponse(output_tensors=tensors)


def failed(message: str, code: int) -> Any:
    return triton.InferenceResponse(error=triton.TritonError(message, code))
