"""The protocols that papers report, run with our trainer on one machine.

    python -m benchmarks.protocols vtab ROOT --backbone FOLDER
    python -m benchmarks.protocols few-shot SETS --backbone FOLDER
    python -m benchmarks.protocols domains SOURCE TARGET... --backbone FOLDER

FOLDER is what `edgetune export` wrote. Options of training are chosen on val (--search), final runs
take several seeds, test is reported of the last epoch. What is finished is kept in --work.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks.protocols import domains, few_shot, vtab
from benchmarks.protocols.prepare import Workplace
from benchmarks.protocols.tasks import BY_NAME
from benchmarks.protocols.trials import grid
from edge_runtime.errors import DataError, EdgeError

PATH = click.Path(path_type=Path, exists=True, file_okay=False)
OPTIONS = [
    click.option("--backbone", required=True, type=PATH, help="What `edgetune export` wrote."),
    click.option("--search", multiple=True, default=["lr=1e-3,3e-3"], show_default=True),
    click.option("--kind", default="attention", type=click.Choice(["attention", "linear"])),
    click.option("--epochs", default=100, show_default=True, type=click.IntRange(1)),
    click.option("--seeds", default=3, show_default=True, type=click.IntRange(1)),
    click.option("--codec", default="float16", show_default=True),
    click.option(
        "--work", default="protocols-out", show_default=True, type=click.Path(path_type=Path)
    ),
    click.option("--json", "json_wanted", is_flag=True, help="Print JSON."),
]


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what all protocols share."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def tell(line: str) -> None:
    click.echo(line, err=True)


def workplace(backbone: Path, search: tuple[str, ...], work: Path, **given: Any) -> Workplace:
    """Where a protocol works, and how it trains."""
    fixed = {"kind": given["kind"], "epochs": given["epochs"]}
    return Workplace(work, backbone, given["codec"], fixed, grid(search), given["seeds"], tell)


@click.group()
def main() -> None:
    """VTAB-1k, few shots and domain generalisation."""


@main.command("vtab")
@click.argument("root", type=PATH)
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(BY_NAME)), metavar="NAME")
@click.option("--keep-features", is_flag=True, help="Else each task's are removed in the end.")
@options
def vtab_command(
    root: Path, tasks: tuple[str, ...], keep_features: bool, json_wanted: bool, **given: Any
) -> None:
    """VTAB-1k's nineteen tasks below ROOT, one folder a task; those not there are named."""
    rows = vtab.run(workplace(**given), root, tasks or tuple(BY_NAME), keep=keep_features)
    click.echo(json.dumps(vtab.as_json(rows), indent=1) if json_wanted else vtab.table(rows))
    if all(row.reason for row in rows):
        raise DataError(f"none of the tasks could be run; does {root} hold a folder a task?")


@main.command("few-shot")
@click.argument("sets", type=PATH)
@click.option("--shots", default="1,2,4,8,16", show_default=True)
@options
def few_shot_command(sets: Path, shots: str, json_wanted: bool, **given: Any) -> None:
    """1 to 16 images a class of every set {train,val,test}/CLASS/* below SETS."""
    rows = few_shot.run(workplace(**given), sets, few_shot.parse(shots))
    found = few_shot.as_json(rows) if json_wanted else few_shot.table(rows)
    click.echo(json.dumps(found, indent=1) if json_wanted else found)


@main.command("domains")
@click.argument("source", type=PATH)
@click.argument("targets", type=PATH, nargs=-1, required=True)
@click.option("--shots", default=16, show_default=True, type=click.IntRange(1))
@options
def domains_command(
    source: Path, targets: tuple[Path, ...], shots: int, json_wanted: bool, **given: Any
) -> None:
    """Trains on a few images a class of SOURCE, tests on it and on TARGETs, CLASS/* each."""
    rows = domains.run(workplace(**given), source, targets, shots)
    found = domains.as_json(rows) if json_wanted else domains.table(rows)
    click.echo(json.dumps(found, indent=1) if json_wanted else found)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except EdgeError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
