"""`edgetune pull`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.cli.common import (
    PATH,
    emit_json,
    force_option,
    json_option,
    open_link,
    progress,
    say,
    with_link,
)


@click.command(short_help="Fetch a ready feature folder from a server.")
@click.argument("url")
@click.option("--out", required=True, type=PATH, help="Folder to write.")
@with_link
@force_option
@json_option
def pull(
    url: str,
    out: Path,
    token_file: Path | None,
    ca: Path | None,
    timeout: float,
    force: bool,
    as_json: bool,
) -> None:
    """Fetch the feature folder at URL, or a backbone's manifest, and verify every hash.

    `edgetune serve` publishes SERVER/backbone and, with --features, SERVER/features; any web server
    that knows Range can publish a feature folder. An interrupted command, repeated, goes on where
    it stopped; until it is done, everything lies in OUT.partial.

    \b
    Example:
      edgetune pull http://192.168.1.10:8000/features --out features
    """
    from dataclasses import asdict

    from edge_runtime import formats
    from edge_runtime.atomic import partial_path
    from edge_runtime.errors import ServerError
    from edge_runtime.pull import Manifest
    from edge_runtime.pull import pull as run

    link = open_link(url, token_file, ca, timeout)
    manifest = Manifest(link)
    try:
        with progress("pull", manifest.bytes) as advance:
            result = run(link, manifest, out, force=force, progress=advance)
    except (KeyboardInterrupt, ServerError):
        say(f"\n{partial_path(out)} keeps what was fetched; the same command goes on from there")
        raise
    if as_json:
        emit_json({"out": str(out), **asdict(result)})
        return
    kind, _ = formats.FOLDERS[result.format]
    click.echo(
        f"{out}: {kind} {result.identity[:12]}, {result.files} files of {result.bytes:,} bytes, "
        f"{result.fetched_bytes:,} fetched now; all hashes agree"
    )
