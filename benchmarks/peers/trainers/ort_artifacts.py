"""What ONNX Runtime trains from: the graph, exported by PyTorch, and its gradient graph.

    python -m benchmarks.peers.trainers.ort_artifacts PROBLEM OUT

Runs in its own process, so that exporting does not count as memory of training.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.training import artifacts, onnxblock
from torch import Tensor

from benchmarks.peers.problem import BETAS, EPS, WEIGHT_DECAY, Problem, by_block, dotless, gathered
from tests.torch_reference import adaptor_logits

LAST_IR_VERSION = 10  # the newest form of ONNX files that the last training package reads


class _Adaptor(torch.nn.Module):
    """The adaptor as a module, since the exporter wants one. Parameter names have no dots."""

    def __init__(self, problem: Problem):
        super().__init__()
        self.config, self.names = problem.config, {}
        for name, values in by_block(problem.start).items():
            self.names[name] = dotless(name)
            self.register_parameter(
                self.names[name], torch.nn.Parameter(torch.tensor(values.copy()))
            )

    def forward(self, z: Tensor) -> Tensor:
        leaves = {name: getattr(self, dotless) for name, dotless in self.names.items()}
        return adaptor_logits(self.config, gathered(leaves), z)


def with_statistics(model: Any) -> Any:
    """Names the optional outputs of every LayerNormalization: the gradient graph asks for them."""
    for index, node in enumerate(model.graph.node):
        if node.op_type == "LayerNormalization":
            missing = (f"mean_{index}", f"inverse_deviation_{index}")[len(node.output) - 1 :]
            node.output.extend(missing)
    return model


def main() -> None:
    """Writes training model, optimiser model and checkpoint into OUT."""
    problem, out = Problem.read(Path(sys.argv[1])), Path(sys.argv[2])
    module = _Adaptor(problem)
    features, _ = problem.decoded()
    graph = out / "forward.onnx"
    torch.onnx.export(
        module,
        (torch.from_numpy(features),),
        graph,
        input_names=["features"],
        output_names=["logits"],
        opset_version=17,
        training=torch.onnx.TrainingMode.TRAINING,
        do_constant_folding=False,
        dynamo=False,
    )
    artifacts.generate_artifacts(
        with_statistics(onnx.load(graph)),
        requires_grad=list(module.names.values()),
        loss=artifacts.LossType.CrossEntropyLoss,
        optimizer=onnxblock.optim.AdamW(betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY),
        artifact_directory=out,
    )
    optimiser = onnx.load(out / "optimizer_model.onnx")
    optimiser.ir_version = LAST_IR_VERSION  # onnx writes its own newest
    for node in optimiser.graph.node:
        for attribute in node.attribute:
            if attribute.name == "adam_mode":
                attribute.i = 0  # PyTorch's order of decay and update, not that of transformers
    onnx.save(optimiser, out / "optimizer_model.onnx")


if __name__ == "__main__":
    main()
