"""The command `edgetune export-adaptor`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from edge_runtime.cli.common import PATH, emit_json, force_option, json_option


@click.command("export-adaptor", short_help="Write an adaptor as an ONNX or TFLite graph.")
@click.argument("adaptor", type=PATH)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["onnx", "tflite"]),
    required=True,
    help="For onnxruntime, or for LiteRT and tflite-runtime.",
)
@click.option("--out", type=PATH, required=True, help="The graph file to write.")
@click.option(
    "--quantize",
    type=click.Choice(["none", "float16", "int8"]),
    default="none",
    show_default=True,
    help="How the weights are stored; arithmetic is float32 either way.",
)
@click.option(
    "--codec",
    type=click.Choice(["float32", "float16", "int8"]),
    help="How the graph takes features.  [default: as the adaptor was trained on]",
)
@click.option("--features", type=PATH, help="Compare accuracy with numpy's on this folder.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Which split of --features.",
)
@force_option
@json_option
def export_adaptor(
    adaptor: Path,
    kind: str,
    out: Path,
    quantize: str,
    codec: str | None,
    features: Path | None,
    split: str,
    force: bool,
    as_json: bool,
) -> None:
    """Write ADAPTOR as a graph that other runtimes compute, for any number of images at once.

    The graph takes features as they are stored and sent, and decodes them itself. It knows its
    classes and its backbone: `evaluate` and `predict` take it in place of the adaptor. Before it
    gets its name, its probabilities are compared with numpy's.

    \b
    Example:
      edgetune export-adaptor adaptor.safetensors --format onnx --out adaptor.onnx
      edgetune export-adaptor adaptor.safetensors --format tflite --quantize int8 \\
          --features features --out adaptor.tflite
    """
    from edge_runtime.adaptor import Adaptor
    from edge_runtime.errors import require
    from edge_runtime.features import FeatureFolder

    if kind == "onnx":
        require("onnx", extra="export")
    from export.adaptor import export_adaptor as run

    folder = None if features is None else FeatureFolder.open(features)
    found = run(
        Adaptor.load(adaptor),
        out,
        kind,
        quantize=quantize,
        codec=codec,
        features=folder,
        split=split,
        force=force,
    )
    if as_json:
        content = {"out": str(out), "format": kind, "quantize": quantize}
        emit_json({**content, **dataclasses.asdict(found)})
        return
    click.echo(
        f"{out}: {kind}, {found.bytes / 1e3:.1f} KB, takes {found.codec} features; probabilities "
        f"within {found.difference:.1e} of numpy's"
    )
    if quantize != "none":
        click.echo(
            f"weights in {quantize} change a probability by at most "
            f"{found.quantization_change:.1e} on made-up features"
            + ("" if folder else "; give --features to see what that does to accuracy")
        )
    if found.accuracy is not None:
        scores = found.accuracy
        click.echo(
            f"accuracy on {scores.split} ({scores.images} images): {scores.graph:.4f}, numpy "
            f"{scores.numpy:.4f}: a drop of {100 * (scores.numpy - scores.graph):.2f} points"
        )
