"""Training runs killed, starved and misread, and whether they end with the bytes of one that was
left alone.

    python -m benchmarks.faults --kills 200

Kills are SIGKILL at random moments, inside writes too; every run that comes to its end is compared
with a reference, bit for bit: adaptor, best epoch's adaptor and metrics. A small tmpfs is tried
where one may be mounted.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from tests import faults
from tests.faults import Kills, Site

VARIANTS: list[tuple[object, ...]] = [
    (),
    ("--threads", 2),
    ("--kind", "linear", "--drop-path", 0),
    ("--clip-norm", 0.5, "--heads", 2, "--label-smoothing", 0.1),
]


@click.command()
@click.option("--kills", default=200, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write. [default: /tmp]")
def main(kills: int, seed: int, folder: Path | None) -> None:
    """Prints a line for each fault; exits with 1 where one of them spoilt a run."""
    rng = random.Random(seed)
    failed = 0
    with tempfile.TemporaryDirectory(dir=folder) as name:
        site = Site(Path(name) / "0")
        scenarios: dict[str, Callable[[], object]] = {
            "full disk, by file size limit": lambda: faults.full_disk(site),
            "full disk, a small tmpfs": lambda: small_tmpfs(site),
            "short reads and read errors": lambda: faults.read_errors(site),
            "20 torn and zeroed tails": lambda: faults.damaged_tails(site, 20, rng),
            "unwritable folder": lambda: faults.unwritable_folder(site),
            "clock going backwards": lambda: faults.clock_backwards(site),
            "other features, other options": lambda: faults.another_run(site),
            "steps that are not finite": lambda: faults.not_finite(site),
            "SIGTERM": lambda: faults.signals(site, signal.SIGTERM),
            "SIGINT": lambda: faults.signals(site, signal.SIGINT),
        }
        for moment in ("write", "fsync", "replace", "replaced"):
            for at in (1, 2, 5):
                scenarios[f"killed at {moment} {at}"] = lambda m=moment, n=at: faults.kill_inside(
                    site, m, n
                )
        for text, scenario in scenarios.items():
            failed += not tried(text, scenario)
        total = Kills()
        for index, options in enumerate(VARIANTS):
            other = Site(Path(name) / f"kills-{index}", *options)
            share = -(-kills // len(VARIANTS))
            failed += not tried(
                f"{share} kills, options {options}", killing(other, share, rng, total)
            )
    click.echo(
        f"{total.kills} kills in {total.runs} runs: {total.inside_writes} inside a write, "
        f"{total.before_the_first} before the first checkpoint, {len(total.resumed_at)} resumed"
    )
    raise SystemExit(1 if failed else 0)


def tried(text: str, scenario: Callable[[], object]) -> bool:
    """Whether a scenario went as it must; says so."""
    started = time.monotonic()
    try:
        note = scenario()
    except AssertionError as error:
        click.echo(f"FAILED  {text}: {error}")
        return False
    click.echo(f"ok      {text} ({time.monotonic() - started:.0f} s){f', {note}' if note else ''}")
    return True


def killing(site: Site, count: int, rng: random.Random, total: Kills) -> Callable[[], object]:
    """A series of kills, added to a total."""

    def run() -> None:
        met = faults.kill_at_random(site, count, rng)
        total.kills += met.kills
        total.runs += met.runs
        total.inside_writes += met.inside_writes
        total.before_the_first += met.before_the_first
        total.resumed_at += met.resumed_at

    return run


def small_tmpfs(site: Site) -> str:
    """A run whose checkpoints, then whose adaptors, are on a file system without room."""
    adaptor = len(site.reference[0])
    site.clean()
    for path, kilobytes in ((site.checkpoint, 4), (site.out.parent, adaptor // 1024)):
        path.mkdir(exist_ok=True)
        with mounted(path, kilobytes) as done:
            if not done:
                return "not tried: no tmpfs may be mounted here"
            ended = site.run()
            if path == site.checkpoint:
                assert "no checkpoint was written: " in ended.stderr, ended.stderr
                site.must_equal_the_reference(ended)
                site.clean()
            else:
                assert "No space left on device" in ended.error, ended.error
    site.must_equal_the_reference(site.run())
    return ""


@contextlib.contextmanager
def mounted(path: Path, kilobytes: int) -> Iterator[bool]:
    """A tmpfs of that size over a folder, if this user may have one."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", str(path)], check=True)


if __name__ == "__main__":
    main()
