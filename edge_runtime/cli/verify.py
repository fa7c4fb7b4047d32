"""`edgetune verify`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.cli.common import PATH, emit_json, json_option


@click.command()
@click.argument("paths", nargs=-1, required=True, type=PATH)
@json_option
def verify(paths: tuple[Path, ...], as_json: bool) -> None:
    """Whether PATHS are intact and belong together: backbones, feature folders, adaptors.

    Every hash is computed anew, and every hash by which one of them names another is looked for
    among the others. Exits with 1 where anything is altered or does not match.

    \b
    Example:
      edgetune verify backbone features adaptor.safetensors
    """
    from edge_runtime.chain import verify as check

    findings = check(paths)
    wrong = [finding for finding in findings if finding.holds is False]
    if as_json:
        listed = [{"holds": finding.holds, "text": finding.text} for finding in findings]
        emit_json({"holds": not wrong, "findings": listed})
    else:
        for finding in findings:
            sign = {True: "ok", False: "WRONG", None: "-"}[finding.holds]
            click.echo(f"{sign:7}{finding.text}")
    if wrong:
        raise click.ClickException(f"{len(wrong)} of {len(findings)} checks failed")
