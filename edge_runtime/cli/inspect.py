"""`edgetune inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edge_runtime.cli.common import PATH, emit_json, json_option


@click.command()
@click.argument("path", type=PATH)
@click.option("--verify", is_flag=True, help="Recompute every sha256 and compare.")
@json_option
def inspect(path: Path, verify: bool, as_json: bool) -> None:
    """Describe a file or folder of ours: a backbone, features, a shard, an adaptor.

    \b
    Example:
      edgetune inspect features --verify
    """
    from edge_runtime.describe import describe

    content = describe(path, verify=verify)
    if as_json:
        emit_json(content)
        return
    for key, value in content.items():
        click.echo(f"{key:18} {show(value)}")


def show(value: Any) -> str:
    """A value in one line, long lists cut short."""
    if isinstance(value, list) and len(value) > 12:
        return f"{', '.join(str(v) for v in value[:12])} ... ({len(value)})"
    if isinstance(value, list):
        return ", ".join(str(v) for v in value)
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)
