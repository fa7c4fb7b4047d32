"""What the commands share: option types, JSON output, progress on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on stdout; messages go to stderr."
)
force_option = click.option("--force", is_flag=True, help="Replace the output if it exists.")


def emit_json(content: dict[str, Any]) -> None:
    """Prints one machine-readable result."""
    click.echo(json.dumps(content, allow_nan=False))


def say(message: str) -> None:
    """A message for people: on stderr, so that stdout stays for results."""
    click.echo(message, err=True)


Advance = Callable[[int, str], None]


@contextmanager
def progress(label: str, length: int) -> Iterator[Advance]:
    """A bar on stderr with rate and time left, or nothing where stderr is no terminal.

    Yields `advance(steps, note)`; `note` is shown behind the bar.
    """
    if not sys.stderr.isatty():
        yield lambda steps, note: None
        return
    with click.progressbar(
        length=length, label=label, file=sys.stderr, item_show_func=lambda note: note or ""
    ) as bar:
        yield lambda steps, note: bar.update(steps, note)
