"""Other ways to adapt the same frozen backbone, on the same images, beside ours.

    python -m benchmarks.methods DATA --backbone vit_tiny_patch16_224 --checkpoint WEIGHTS

DATA holds one folder a set, each with {train,val,test}/class/*. Every method gets the same recipe
and epochs and the same search: each learning rate is tried with each weight decay and seed 0, val
chooses one pair, and test is reported of three seeds with it. What is finished is kept in --work,
features and runs, so the command can be stopped and goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmarks.demo import edgetune
from benchmarks.methods.methods import BY_NAME
from benchmarks.methods.process import execute_in, features_folder, taps_folder
from benchmarks.methods.study import Run, compare, remembered
from benchmarks.methods.table import as_json, table
from benchmarks.methods.taps import extract_taps, read_shape
from edge_runtime.errors import ConfigError, EdgeError

PATH = click.Path(path_type=Path)


def parse_numbers(text: str) -> list[float]:
    """Learning rates or weight decays between commas."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--lr and --weight-decay want numbers between commas, as 1e-3,3e-3, not {text!r}"
        ) from None
    return numbers


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--backbone", required=True, help="A timm model.")
@click.option("--checkpoint", type=PATH, help="Its weights; else the hub's.")
@click.option("--lr", default="1e-3,3e-3,1e-2", show_default=True, help="Rates to choose from.")
@click.option("--weight-decay", default="0.05,1", show_default=True, help="Likewise.")
@click.option("--epochs", default=30, show_default=True, type=click.IntRange(1))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--only", multiple=True, help="Names of sets; all by default.")
@click.option(
    "--method", multiple=True, type=click.Choice(list(BY_NAME)), help="All of them by default."
)
@click.option("--device", default="cpu", show_default=True, help="Where PyTorch trains: cuda.")
@click.option("--work", default="methods-out", show_default=True, type=PATH)
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON.")
def main(
    data: Path,
    backbone: str,
    checkpoint: Path | None,
    lr: str,
    weight_decay: str,
    epochs: int,
    seeds: int,
    only: tuple[str, ...],
    method: tuple[str, ...],
    device: str,
    work: Path,
    json_wanted: bool,
) -> None:
    """Prints a table, and writes results.json and results.png into --work."""
    try:
        sets = list(only) or sorted(p.parent.name for p in data.glob("*/train") if p.is_dir())
        missing = [name for name in sets if not (data / name / "train").is_dir()]
        if missing or not sets:
            raise ConfigError(f"{data / (missing or ['SET'])[0]}/train/CLASS/* does not exist")
        methods = list(method or BY_NAME)
        settings: dict[str, Any] = {
            "rates": parse_numbers(lr),
            "decays": parse_numbers(weight_decay),
            "seeds": seeds,
            "epochs": epochs,
        }
        prepare(data, sets, methods, work, backbone, checkpoint)
        rows = []
        for row in compare(
            sets,
            methods,
            **settings,
            execute=remembered(work / "runs", lambda run: told(work, run, device)),
            image_bytes=lambda name, method: BY_NAME[method].image_bytes(
                read_shape(taps_folder(work, name))
            ),
        ):
            rows.append(row)
            click.echo(
                f"{row.method} on {row.set}: {row.mean:.4f} at {row.lr:g}, {row.weight_decay:g}",
                err=True,
            )
        found = as_json(rows, backbone=backbone, **settings)
        (work / "results.json").write_text(found + "\n")
        click.echo(found if json_wanted else table(rows))
        draw(rows, work / "results.png")
    except EdgeError as error:
        raise click.ClickException(str(error)) from None


def told(work: Path, run: Run, device: str) -> dict[str, Any]:
    click.echo(f"training {Path(run.file).stem}", err=True)
    return execute_in(work, run, device)


def prepare(
    data: Path,
    sets: list[str],
    methods: list[str],
    work: Path,
    backbone: str,
    checkpoint: Path | None,
) -> None:
    """Exports the backbone and extracts what is not there yet: sums for ours, taps for others."""
    model = work / "backbone"
    if not model.exists():
        weights = ["--checkpoint", str(checkpoint)] if checkpoint else []
        edgetune("export", backbone, "--out", str(model), *weights)
    stack = None
    for name in sets:
        features, taps = features_folder(work, name), taps_folder(work, name)
        if "adaptor" in methods and not features.exists():
            edgetune("extract", str(data / name), "--backbone", str(model), "--out", str(features))
        if not taps.exists():
            if stack is None:
                from benchmarks.methods.tap_stack import TapStack

                stack = TapStack(backbone, checkpoint, model)
            click.echo(f"every tap of {name}", err=True)
            extract_taps(data / name, model, stack, taps)


def draw(rows: list[Any], path: Path) -> None:
    """The plot, where matplotlib is installed."""
    try:
        from benchmarks.methods.plot import plot

        plot(rows, path)
        click.echo(f"{path} shows it", err=True)
    except EdgeError as error:
        click.echo(f"no plot: {error}", err=True)


if __name__ == "__main__":
    main()
