"""A training run that things happen to, and whether it ended with the bytes that it should.

Every process is a real one: it is killed by SIGKILL, limited by the system, or has a fault of
faulty.py below it. tests/trainer_lite/test_faults.py runs a part of this, benchmarks/faults.py all.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.feature_folders import write_features
from trainer_lite.generation import load
from trainer_lite.history import history_of

ROOT = Path(__file__).parents[1]
TIMES = ("seconds", "rate", "second", "rss", "checkpoint", "share")  # in names of what may differ
RUN = ("--epochs", 12, "--batch-size", 8, "--rank", 4, "--drop-path", 0.2)
STEPS = 12 * 6
ROWS = {"train": 48, "val": 24, "test": 24}


@dataclass(frozen=True)
class Ended:
    """A process that ended; exit_code is negative where a signal ended it."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line, after warnings, of a run that was refused or failed."""
        assert self.exit_code == 1 and self.stdout == "", self
        assert "Traceback" not in self.stderr, self.stderr
        lines = [line for line in self.stderr.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1, self.stderr
        return lines[0]


@dataclass
class Kills:
    """What a series of kills met."""

    kills: int = 0
    inside_writes: int = 0
    before_the_first: int = 0
    runs: int = 0
    resumed_at: list[int] = field(default_factory=list)


class Site:
    """A folder with features, a reference that nothing happened to, and a run to spoil."""

    def __init__(self, folder: Path, *options: Any):
        self.folder, self.options = folder, (*RUN, *options)
        self.features = folder / "features"
        write_features(  # hard ones: validation gets better in epochs 1, 3, 6 and 7
            self.features,
            rows=ROWS,
            shard_rows=20,
            tokens=9,
            embed_dim=16,
            classes=6,
            separation=0.06,
            seed=5,
        )
        self.checkpoint, self.out = folder / "run", folder / "out" / "a.safetensors"
        self.reference = self._reference()

    @property
    def best(self) -> Path:
        return self.out.with_name("a.best.safetensors")

    def _reference(self) -> tuple[bytes, bytes, Any]:
        """Bytes and metrics of a run without checkpoints."""
        ended = self.finish(self.start(checkpoint=False))
        assert ended.exit_code == 0, ended.stderr
        reference = self.found(ended)
        self.clean()
        return reference

    def found(self, ended: Ended) -> tuple[bytes, bytes, Any]:
        """What a finished run left and printed, without what is a matter of time."""
        return self.out.read_bytes(), self.best.read_bytes(), timeless(json.loads(ended.stdout))

    def start(
        self,
        *options: Any,
        fault: dict[str, Any] | None = None,
        checkpoint: bool = True,
        every: Any = 3,
        before: Callable[[], object] | None = None,
    ) -> subprocess.Popen[str]:
        """Starts `train --resume`, as a board does after each boot."""
        module = ["edge_runtime.cli"] if fault is None else ["tests.faulty", json.dumps(fault)]
        saved = ("--checkpoint", self.checkpoint, "--every", every, "--resume")
        arguments = ("train", self.features, "--out", self.out, "--json", *self.options, *options)
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                *module,
                *map(str, (*arguments, *(saved if checkpoint else ()))),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 600) -> Ended:
        """Waits for a process."""
        stdout, stderr = process.communicate(timeout=timeout)
        return Ended(process.returncode, stdout, stderr)

    def run(self, *options: Any, **how: Any) -> Ended:
        return self.finish(self.start(*options, **how))

    def must_equal_the_reference(self, ended: Ended) -> None:
        """Fails unless a run ended well, with the reference's bytes, and left nothing over."""
        assert ended.exit_code == 0, ended.stderr
        out, best, metrics = self.found(ended)
        assert metrics == self.reference[2]
        assert best == self.reference[1], "the best epoch's adaptor differs"
        assert out == self.reference[0], "the adaptor differs"
        assert self.files() == [
            "out/a.best.safetensors",
            "out/a.history.json",
            "out/a.safetensors",
        ]
        assert len(history_of(self.out)["epochs"]) == metrics["epochs"]

    def files(self) -> list[str]:
        """All that the run has written."""
        found = [p for folder in (self.checkpoint, self.out.parent) for p in folder.rglob("*")]
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def clean(self) -> None:
        """Forgets the run."""
        for path in (self.checkpoint, self.out.parent):
            for file in path.rglob("*"):
                file.unlink()

    def interrupted(self, saves: int = 9) -> list[Path]:
        """A run killed after so many checkpoints; its generations, the newest first."""
        self.clean()
        options = {"kill": "replaced", "at": saves}
        assert self.run(fault=options).exit_code == -signal.SIGKILL
        return self.generations()

    def generations(self) -> list[Path]:
        """Checkpoint files, the one with the most steps first."""
        paths = list(self.checkpoint.glob("checkpoint-*"))
        return sorted(paths, key=lambda path: -load(path).progress.step)


def timeless(metrics: Any) -> Any:
    """Metrics without those that depend on time, or on how often a process was started."""
    if isinstance(metrics, list):
        return [timeless(entry) for entry in metrics]
    if isinstance(metrics, dict):
        return {
            key: timeless(value)
            for key, value in metrics.items()
            if not any(part in key for part in TIMES)
        }
    return metrics


def kill_at_random(site: Site, count: int, rng: random.Random) -> Kills:
    """Kills runs at random moments, starts each again, and compares every run that comes to its
    end, until there were so many kills and the last run has ended.

    One in ten is killed as it starts; the others after some of their writes, however slow the
    machine is, at a moment of their own.
    """
    met = Kills()
    site.clean()
    fresh = True
    while met.kills < count or not fresh:
        process = site.start(every=rng.choice([1, 1, 2, 5, "0.05s"]))
        if met.kills < count:
            if rng.random() > 0.1:
                wait_for_writes(site, process, rng.randint(1, 20))
            try:
                process.wait(rng.uniform(0, 0.05))
            except subprocess.TimeoutExpired:
                process.kill()
        ended = site.finish(process)
        fresh = ended.exit_code == 0
        if fresh:
            site.must_equal_the_reference(ended)
            site.clean()
            met.runs += 1
        elif site.out.exists():  # killed between its last file and its end
            assert ended.exit_code == -signal.SIGKILL, ended.stderr
            assert site.out.read_bytes() == site.reference[0]
            met.kills += 1
            site.out.unlink()
        else:
            assert ended.exit_code == -signal.SIGKILL, ended.stderr
            met.kills += 1
            met.inside_writes += any(".tmp" in name for name in site.files())
            met.before_the_first += not any("run/checkpoint-" in name for name in site.files())
        for line in ended.stderr.splitlines():
            if line.startswith("resumed at step "):
                met.resumed_at.append(int(line.split()[3]))
    return met


def wait_for_writes(site: Site, process: subprocess.Popen[str], count: int) -> None:
    """Returns once the checkpoint folder was seen to change so often, or the process has ended."""

    def changed() -> int:
        return site.checkpoint.stat().st_mtime_ns if site.checkpoint.exists() else 0

    last = changed()
    while count and process.poll() is None:
        time.sleep(0.001)
        now = changed()
        count -= now != last
        last = now


def kill_inside(site: Site, moment: str, at: int) -> None:
    """Kills a run at a moment of its writing."""
    site.clean()
    assert site.run(fault={"kill": moment, "at": at}).exit_code == -signal.SIGKILL
    site.must_equal_the_reference(site.run())


def full_disk(site: Site) -> None:
    """Checkpoints that do not fit are warned of; an adaptor that does not is an error."""
    site.clean()
    adaptor = len(site.reference[0])

    def limit(nbytes: int) -> Callable[[], object]:
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, nbytes))

    ended = site.run(before=limit(adaptor + 100))
    assert "warning: no checkpoint was written: " in ended.stderr, ended.stderr
    site.must_equal_the_reference(ended)
    site.clean()
    line = site.run(before=limit(adaptor // 2)).error
    assert "a.best.safetensors: File too large" in line, line
    assert site.files() == []
    newest = site.interrupted()[0].read_bytes()
    assert "File too large" in site.run(before=limit(adaptor // 2)).error
    assert site.generations()[0].read_bytes() == newest
    site.must_equal_the_reference(site.run())


def read_errors(site: Site) -> None:
    """Short reads change nothing; a shard that cannot be read is named; a checkpoint that cannot
    be read is done without."""
    site.clean()
    site.must_equal_the_reference(site.run(fault={"reads": "short"}))
    site.interrupted()
    line = site.run(fault={"reads": "error", "match": "train-00001"}).error
    assert "train-00001.safetensors: Input/output error" in line, line
    newest = site.generations()[0].name
    ended = site.run(fault={"reads": "error", "match": newest})
    assert f"{newest}" in ended.stderr and "going on from the other generation" in ended.stderr
    site.must_equal_the_reference(ended)


def damaged_tails(site: Site, count: int, rng: random.Random) -> None:
    """A newest generation that is torn or zeroed from some byte on is done without."""
    for index in range(count):
        newest, _ = site.interrupted()
        content = newest.read_bytes()
        start = rng.randrange(len(content))
        tail = b"" if index % 2 else bytes(len(content) - start)
        newest.write_bytes(content[:start] + tail)
        if newest.read_bytes() == content:
            continue
        ended = site.run()
        assert "going on from the other generation" in ended.stderr, (start, ended.stderr)
        site.must_equal_the_reference(ended)
    for path in site.interrupted():
        path.write_bytes(path.read_bytes()[:-1])
    before = site.files()
    assert "no checkpoint in" in site.run().error
    assert site.files() == before


def unwritable_folder(site: Site) -> None:
    """A folder that cannot be made is told before the work."""
    site.clean()
    (site.folder / "file").write_text("")
    for folder, message in (
        (site.folder / "file" / "run", "is no folder; choose another"),
        (Path("/proc/edgetune/run"), "/proc/edgetune"),
    ):
        line = site.run("--checkpoint", folder, checkpoint=False).error
        assert message in line, line
    assert site.files() == []


def clock_backwards(site: Site) -> None:
    """Time of day and file times that run backwards change nothing."""
    site.clean()
    fault = {"clock": "backwards"}
    assert site.run(fault={**fault, "kill": "replaced", "at": 9}).exit_code == -signal.SIGKILL
    newest, older = site.generations()
    os.utime(newest, (0, 0))
    os.utime(older, (2e9, 2e9))
    ended = site.run(fault=fault)
    site.must_equal_the_reference(ended)


def another_run(site: Site) -> None:
    """Other features and other options are refused, and what differs is named."""
    site.interrupted()
    before = {path: path.read_bytes() for path in site.generations()}
    for options, message in (
        (("--epochs", 13), "epochs was 12, is 13"),
        (("--lr", 0.01, "--seed", 3), "lr was 0.02, is 0.01"),
        (("--threads", 2), "threads was 1, is 2"),
    ):
        line = site.run(*options, "--force").error
        assert "is of another run: " in line and message in line, line
    manifest = site.features / "manifest.json"
    kept = manifest.read_text()
    manifest.write_text(kept.replace('"norm_eps": 1e-06', '"norm_eps": 1e-05'))
    assert manifest.read_text() != kept
    line = site.run("--force").error
    assert "CRC-32 of the features' manifest was " in line, line
    manifest.write_text(kept)
    assert {path: path.read_bytes() for path in site.generations()} == before
    site.must_equal_the_reference(site.run())


def signals(site: Site, number: int) -> None:
    """A signal saves and ends the run, with the exit status that shells give it."""
    site.clean()
    process = site.start(every="1h")
    while not site.best.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(number)
    ended = site.finish(process)
    assert ended.exit_code == 128 + number and ended.stdout == "", ended
    assert "stopped at step " in ended.stderr and "--resume goes on from" in ended.stderr
    assert len(site.generations()) == 1
    site.must_equal_the_reference(site.run(every="1h"))


def not_finite(site: Site) -> None:
    """Steps in a row that are not finite end a run; once they are, it goes on from before them."""
    site.clean()
    for good in (1, 18):  # steps of each process that go well; 24 end an epoch
        line = site.run(fault={"nan": good + 1, "count": 5}, every="1h").error
        assert "5 steps in a row had to be skipped" in line, line
        assert "what was learnt so far is in " in line and "--resume can go on" in line, line
    assert [load(path).progress.step for path in site.generations()] == [19, 1]
    stopped = site.out.with_name("a.stopped.safetensors")
    stopped.unlink()
    site.must_equal_the_reference(site.run())
