"""Coverage-guided fuzzing of every reader, each target in a process of its own.

    python -m tests.fuzz --seconds 600            all targets, so long each
    python -m tests.fuzz shard --seconds 60

Needs atheris (pip install 'edgetune[fuzz]'). The corpus that grows is kept in --corpus; an input
that ends in anything but an EdgeError is written to tests/fuzz/findings/TARGET/, where every test
run tries it again once it is fixed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import click

FINDINGS = Path(__file__).with_name("findings")
MEBIBYTES = 2048  # that a target's process may hold: a reader that believes a header takes more
NAMES = (
    "adaptor",
    "shard",
    "masked-shard",
    "features-manifest",
    "backbone-manifest",
    "basis",
    "board",
    "checkpoint",
    "history",
    "profile",
    "request",
    "answer",
    "http",
    "image",
    "mask",
    "installer-manifest",
)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--seconds", default=60, show_default=True, help="For each target.")
@click.option("--corpus", default=Path("build/fuzz"), show_default=True, type=Path)
@click.option("--inside", hidden=True, is_flag=True, help="Fuzz the one target in this process.")
def main(names: tuple[str, ...], seconds: int, corpus: Path, inside: bool) -> None:
    """Fuzzes the targets named, or all; exits with 1 where there is a finding."""
    if inside:
        fuzz(names[0], seconds, corpus / names[0])
        return
    total, found = 0, []
    for name in names or NAMES:
        command = [sys.executable, "-m", "tests.fuzz", name, "--inside"]
        command += ["--seconds", str(seconds), "--corpus", str(corpus)]
        started = time.monotonic()
        finished = subprocess.run(command, capture_output=True, text=True, errors="replace")
        minutes = (time.monotonic() - started) / 60
        counted = re.findall(r"stat::number_of_executed_units:\s*(\d+)", finished.stderr)
        executions = int(counted[-1]) if counted else 0
        total += executions
        click.echo(f"{name:20}{executions:12} executions in {minutes:6.1f} minutes")
        if finished.returncode:
            found.append(name)
            click.echo(finished.stderr[-3000:], err=True)
    click.echo(f"{'all':20}{total:12} executions, findings: {', '.join(found) or 'none'}")
    if found:
        raise click.exceptions.Exit(1)


def fuzz(name: str, seconds: int, corpus: Path) -> None:
    """Never returns: atheris ends the process."""
    import atheris

    with atheris.instrument_imports(include=["edge_runtime", "trainer_lite", "export"]):
        from tests.fuzz.targets import TARGETS, survive
    target = TARGETS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(target.seeds()):
        (corpus / f"seed-{index}").write_bytes(seed)
    kept = FINDINGS / name
    kept.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEBIBYTES}", "-timeout=10"]
    options += ["-print_final_stats=1", f"-artifact_prefix={kept}/", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: survive(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
