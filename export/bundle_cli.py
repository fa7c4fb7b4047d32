"""The command `edgetune bundle`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.cli.common import PATH, emit_json, force_option, json_option

EXTRAS = ("vision", "ort", "tflite")


def split_extras(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> list[str]:
    """`tflite,ort` and repeated options alike."""
    names = [name.strip() for text in value for name in text.split(",") if name.strip()]
    for name in names:
        if name not in EXTRAS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(EXTRAS)}")
    return sorted(set(names))


@click.command(short_help="Pack all that a board needs into one archive.")
@click.option(
    "--target",
    required=True,
    type=click.Choice(["aarch64", "armv7l", "x86_64"]),
    help="The board's userland, e.g. `dpkg --print-architecture`: arm64 is aarch64, armhf armv7l.",
)
@click.option("--out", type=PATH, help="The .tar.gz to write.")
@click.option(
    "--python",
    "pythons",
    multiple=True,
    type=click.Choice(["3.9", "3.10", "3.11", "3.12", "3.13"]),
    default=["3.11"],
    show_default=True,
    help="The board's Python; may be repeated.",
)
@click.option(
    "--with",
    "extras",
    multiple=True,
    callback=split_extras,
    help="Optional packages: vision (Pillow), ort, tflite; e.g. --with vision,tflite.",
)
@click.option("--adaptor", type=PATH, help="An adaptor file to take along.")
@click.option("--features", type=PATH, help="A feature folder to take along.")
@click.option("--constraint", type=PATH, help="A constraints file for pip, to fix versions.")
@click.option("--dry-run", is_flag=True, help="List what would go in, write nothing.")
@force_option
@json_option
def bundle(
    target: str,
    out: Path | None,
    pythons: tuple[str, ...],
    extras: list[str],
    adaptor: Path | None,
    features: Path | None,
    constraint: Path | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Pack all that a board needs into one archive: packages, an installer, adaptor, features.

    pip fetches the wheels for the board. There, unpack and run ./install.sh [PREFIX]: it needs a
    Python and nothing else, checks every hash, and ends with `edgetune selftest`.

    \b
    Example:
      edgetune bundle --target aarch64 --python 3.11 --features features --out board.tar.gz
    """
    if out is None and not dry_run:
        raise click.UsageError("give --out, or --dry-run")
    import tempfile

    from edge_runtime.atomic import refuse_unwritable
    from export.bundle import collect, size_of, write

    if out is not None and not dry_run:
        refuse_unwritable(out, force=force)
    with tempfile.TemporaryDirectory() as downloads:
        files = collect(
            target,
            sorted(set(pythons), key=lambda python: int(python.split(".")[1])),
            extras,
            Path(downloads),
            adaptor=adaptor,
            features=features,
            constraint=constraint,
        )
        listed = {name: size_of(content) for name, content in files.items()}
        size = None if out is None or dry_run else write(files, out)
    if as_json:
        emit_json({"out": None if size is None else str(out), "bytes": size, "files": listed})
        return
    if dry_run:
        for name, count in listed.items():
            click.echo(f"{count:>12,} {name}")
    where = "not written" if size is None else f"{out}: {size / 1e6:.1f} MB"
    total = sum(listed.values())
    click.echo(f"{where}; {len(files)} files, {total / 1e6:.1f} MB unpacked, for {target}")
