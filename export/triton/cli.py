"""The command `edgetune triton-repo`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.cli.common import PATH, emit_json, force_option, json_option


@click.command("triton-repo", short_help="Write a backbone as a model of Triton.")
@click.argument("backbone", type=PATH, metavar="BACKBONE_DIR")
@click.option("--out", type=PATH, required=True, help="Model repository to write into.")
@click.option(
    "--backend",
    type=click.Choice(["onnxruntime", "python"]),
    default="onnxruntime",
    show_default=True,
    help="What computes: Triton's own onnxruntime, or the code of `edgetune serve`.",
)
@click.option("--name", help="Name of the model.  [default: the backbone's timm name]")
@click.option(
    "--max-batch",
    type=click.IntRange(1, 1024),
    default=16,
    show_default=True,
    help="Images computed together, and in one request.",
)
@click.option(
    "--instances",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Copies of the model that compute side by side.",
)
@click.option(
    "--max-wait",
    type=click.FloatRange(0, 1000),
    default=0.0,
    show_default=True,
    help="Milliseconds that images may wait for company (onnxruntime).",
)
@click.option(
    "--merge/--no-merge",
    default=True,
    show_default=True,
    help="Whether requests may be computed together (onnxruntime).",
)
@force_option
@json_option
def triton_repo(
    backbone: Path,
    out: Path,
    backend: str,
    name: str | None,
    max_batch: int,
    instances: int,
    max_wait: float,
    merge: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write the backbone in BACKBONE_DIR as a model of NVIDIA Triton Inference Server.

    The model's folder appears in the repository --out; other models there are left alone. Either
    way `extract --server` and `predict --server` know the backbone: its manifest lies in
    config.pbtxt. With --backend onnxruntime, Triton runs the graph, on accelerators too; devices
    send pixels and encode the features themselves. With --backend python, it answers all that
    `edgetune serve` does, on processors; Triton's Python needs numpy, onnxruntime and Pillow.

    \b
    Examples:
      edgetune triton-repo backbone --out models
      tritonserver --model-repository models
    """
    from edge_runtime.backbone import Backbone
    from edge_runtime.served_model import default_name
    from export.triton.repository import Options, write_repository

    opened = Backbone.open(backbone)
    options = Options(max_batch, instances, max_wait, merge)
    chosen = name or default_name(opened.reference)
    folder = write_repository(opened, out, backend, chosen, options, force=force)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if as_json:
        emit_json({"out": str(out), "model": chosen, "backend": backend, "bytes": size})
        return
    click.echo(
        f"{folder}: model {chosen} for Triton's {backend} backend, {size / 1e6:.1f} MB; start it "
        f"with: tritonserver --model-repository {out}"
    )
