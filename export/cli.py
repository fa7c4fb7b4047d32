"""The command `edgetune export`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.cli.common import PATH, emit_json, force_option, json_option, say


@click.command()
@click.argument("model")
@click.option("--out", type=PATH, required=True, help="Backbone folder to write.")
@click.option(
    "--checkpoint",
    type=PATH,
    help="Weights: a .safetensors or .pth file, or a folder saved by timm (config.json + "
    "model.safetensors). Without it they come from the Hugging Face hub.",
)
@click.option("--k", type=int, help="Last block that is summed, from 1; all by default.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Type of the features; arithmetic is float32 either way.",
)
@click.option("--image-size", type=click.IntRange(min=1), help="Side of the input in pixels.")
@click.option("--random-weights", is_flag=True, help="Seeded random weights, to try a model out.")
@force_option
@json_option
def export(
    model: str,
    out: Path,
    checkpoint: Path | None,
    k: int | None,
    dtype: str,
    image_size: int | None,
    random_weights: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Export the timm model MODEL as an ONNX graph that sums its intermediate features.

    The graph takes uint8 images and returns z_0 + z_1 + ... + z_k: the input of the first block
    and the outputs of blocks 1 to k, not normalised in between; no head, nothing behind block k.
    Each export is verified against timm before it gets its name.

    \b
    Example:
      edgetune export vit_tiny_patch16_224 --out backbone
      edgetune export vit_small_patch14_reg4_dinov2 --checkpoint dino.pth \\
          --image-size 224 --dtype float16 --out backbone
    """
    from edge_runtime.errors import require
    from export.torchvision_repair import EXTRA, import_timm

    import_timm()
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, extra=EXTRA)
    from export.backbone import export_backbone

    content = export_backbone(
        model,
        out,
        checkpoint=checkpoint,
        k=k,
        dtype=dtype,
        image_size=image_size,
        random_weights=random_weights,
        force=force,
    )
    size = content["onnx"]["bytes"]
    verified = content["verified"]
    error = max(verified[what]["max_relative"] for what in ("torch", "forward_intermediates"))
    if as_json:
        kept = {key: value for key, value in content.items() if key not in ("format", "version")}
        emit_json({**kept, "out": str(out), "backbone_bytes": size})
    scale, last = content["output"]["scale"], content["k"]
    blocks = "1 block" if last == 1 else f"{last} blocks"
    say(
        f"{content['model']}: sum of z_0 and {blocks}, {content['tokens']} tokens x "
        f"{content['embed_dim']}, {dtype}{f' x {scale:g}' if scale != 1 else ''}; "
        f"largest relative error {error:.1e}; {size / 1e6:.1f} MB in {out}"
    )
