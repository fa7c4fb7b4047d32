"""What may happen to a training run, to real processes; benchmarks/faults.py does much more."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests import faults
from tests.faults import Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("faults"))


def test_the_reference_gets_better_on_the_way(site: Site) -> None:
    assert site.reference[2]["best_epoch"] > 2


def test_runs_killed_at_random_end_with_the_same_bytes(site: Site) -> None:
    met = faults.kill_at_random(site, 6, random.Random(0))
    assert met.kills >= 6 and met.resumed_at


@pytest.mark.parametrize("moment", ["write", "replace", "replaced"])
def test_runs_killed_inside_a_write_end_with_the_same_bytes(site: Site, moment: str) -> None:
    faults.kill_inside(site, moment, at=7)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(site: Site, number: int) -> None:
    faults.signals(site, number)


def test_a_full_disk(site: Site) -> None:
    faults.full_disk(site)


def test_reads_that_fail_or_are_short(site: Site) -> None:
    faults.read_errors(site)


def test_another_run_is_refused(site: Site) -> None:
    faults.another_run(site)


def test_steps_that_are_not_finite(site: Site) -> None:
    faults.not_finite(site)


@pytest.mark.slow
def test_damaged_tails(site: Site) -> None:
    faults.damaged_tails(site, 6, random.Random(0))


@pytest.mark.slow
def test_a_folder_that_cannot_be_written(site: Site) -> None:
    faults.unwritable_folder(site)


@pytest.mark.slow
def test_a_clock_that_runs_backwards(site: Site) -> None:
    faults.clock_backwards(site)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--threads", 2),
        ("--fit-on", "train"),
        ("--kind", "linear", "--drop-path", 0),
        ("--clip-norm", 0.5),
    ],
    ids=str,
)
def test_other_kinds_of_runs_killed_at_random(tmp_path: Path, options: tuple[object, ...]) -> None:
    faults.kill_at_random(Site(tmp_path, *options), 4, random.Random(1))
