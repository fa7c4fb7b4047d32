"""`edgetune selftest`."""

from __future__ import annotations

import click

from edge_runtime.cli.common import emit_json, json_option


@click.command()
@json_option
def selftest(as_json: bool) -> None:
    """Check this machine: gradients, training steps, file formats, a small training run.

    Compares with figures that PyTorch gave and that ship with edgetune; needs nothing but numpy.
    Exits with 0, or with 1 and names what is off.

    \b
    Example:
      edgetune selftest --json
    """
    import math
    import platform

    import numpy as np

    from trainer_lite.selftest import run_checks

    checks = []
    for check in run_checks():
        checks.append(check)
        if not as_json:
            sign, state = (">=" if check.at_least else "<="), "ok" if check.passed else "FAILED"
            figures = f"{check.found:9.2g} {sign} {check.bound:g}"
            click.echo(f"{state:7}{check.name:52}{figures}")
    failed = [check.name for check in checks if not check.passed]
    if as_json:
        emit_json(
            {
                "passed": not failed,
                "machine": platform.machine(),
                "numpy": np.__version__,
                "checks": [
                    {
                        "name": check.name,
                        "found": check.found if math.isfinite(check.found) else None,
                        "bound": check.bound,
                        "passed": check.passed,
                    }
                    for check in checks
                ],
            }
        )
    else:
        where = f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
        click.echo(f"{len(checks) - len(failed)} of {len(checks)} checks passed on {where}")
    if failed:
        raise click.ClickException(f"off on this machine: {', '.join(failed)}")
