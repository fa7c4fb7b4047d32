"""`edgetune transcode`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_runtime.cli.common import (
    PATH,
    emit_json,
    force_option,
    json_option,
    progress,
    set_blas_threads,
)
from edge_runtime.cli.extract import CODEC_NAMES


class BasisOf(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.2
    """Numbers a token, to fit a basis of; or the folder whose basis to take."""

    name = "number|folder"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Path:
        text = str(value)
        return int(text) if text.isdigit() and len(text) < 10 else Path(text)


@click.command()
@click.argument("features", type=PATH)
@click.option("--out", required=True, type=PATH, help="Feature folder to write.")
@click.option(
    "--codec",
    type=click.Choice(CODEC_NAMES),
    help="How features are stored.  [default: as FEATURES]",
)
@click.option(
    "--basis",
    type=BasisOf(),
    help="Numbers a token, in a basis fitted on train; or a folder, for the basis that it has.",
)
@force_option
@json_option
def transcode(
    features: Path,
    out: Path,
    codec: str | None,
    basis: int | Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Store FEATURES again: in another codec, in a basis, or both. No image is computed again.

    With --basis 64, tokens are 64 numbers in place of the backbone's embed_dim: what they have
    along the directions in which the training features are long. Storage, training's time and its
    memory shrink with it. The basis lies in the folder and in every adaptor trained on it, so
    `predict` applies it by itself. `edgetune codecs` measures what it costs.

    \b
    Examples:
      edgetune transcode features --codec int4-pool2 --basis 96 --out small
      edgetune transcode others --codec int4-pool2 --basis small --out others-small
    """
    set_blas_threads()
    from edge_runtime.codecs import CODECS
    from edge_runtime.errors import ConfigError
    from edge_runtime.features import FeatureFolder
    from trainer_lite.directions import check_width
    from trainer_lite.transcode import directions, save_transcoded

    folder = FeatureFolder.open(features)
    chosen = folder.codec if codec is None else CODECS[codec]
    rows = {name: folder.split(name).rows for name in folder.split_names}
    fitted, kept = None, None
    if isinstance(basis, Path):
        fitted = FeatureFolder.open(basis).basis
        if fitted is None:
            raise ConfigError(f"{basis} is in no basis; give a number to fit one on {features}")
    fit = isinstance(basis, int)
    if isinstance(basis, int):
        check_width(basis, folder.embed_dim)
    with progress("transcode", sum(rows.values()) + fit * rows["train"]) as advance:
        if isinstance(basis, int):
            found = directions(folder, chosen, advance)
            fitted, kept = found.basis(basis), found.kept(basis)
        made = save_transcoded(folder, chosen, out, fitted, advance, force=force)
    size = chosen.bytes_per_image(made.tokens, made.embed_dim)
    if as_json:
        identity = None if fitted is None else fitted.identity
        emit_json(
            {
                "out": str(out),
                "identity": made.identity,
                "images": sum(rows.values()),
                "splits": rows,
                "codec": chosen.name,
                "tokens": made.tokens,
                "embed_dim": made.embed_dim,
                "basis": identity,
                "kept": kept,
                "bytes_per_image": size,
            }
        )
        return
    note = "" if kept is None else f" in a basis that keeps {kept:.2%} of their squared length"
    click.echo(
        f"{out}: {sum(rows.values())} images, {made.tokens} tokens x {made.embed_dim}{note}, "
        f"{chosen.name}, {size:,} bytes an image"
    )
