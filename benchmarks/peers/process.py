"""The coordinator's end of a peer: starts its process, asks, and names what went wrong."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WORKER = "benchmarks.peers.worker"
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
LONGEST_REASON = 160  # characters


class PeerError(Exception):
    """Why a peer has no figures, in one line."""

    def __init__(self, reason: str):
        line = " ".join(reason.split())
        super().__init__(line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]} ...")


class PeerProcess:
    """A running benchmarks/peers/worker.py. Every method may raise PeerError.

    Args:
        module: has the peer's `trainer` function.
        python: interpreter of the peer's environment.
        log: file for what the peer prints.
        seconds: how long any one answer may take.
    """

    def __init__(
        self,
        module: str,
        *,
        python: Path,
        problem: Path,
        threads: int,
        log: Path,
        seconds: float,
    ):
        self.log, self.limit = log, seconds
        variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
        try:
            with open(log, "wb") as errors:
                self._process = subprocess.Popen(
                    [str(python), "-m", WORKER, module, str(problem), str(threads)],
                    cwd=ROOT,
                    env={**own_environment(), **variables},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
        except OSError as error:
            raise PeerError(str(error)) from None
        try:
            self.versions: dict[str, str] = self._answer()["versions"]
        except BaseException:
            self.close()
            raise

    def gradients(self, path: Path) -> float:
        """Has the gradients at the present parameters written to `path`; returns the loss."""
        return float(self._ask(f"gradients {path}")["loss"])

    def step(self, count: int = 1) -> float:
        """Seconds that so many steps took together."""
        return float(self._ask(f"step {count}")["seconds"])

    def peak_rss_bytes(self) -> int:
        """Largest resident size of the process so far."""
        return int(self._ask("peak")["peak_rss_bytes"])

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _ask(self, request: str) -> dict[str, Any]:
        assert self._process.stdin
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        overdue = threading.Timer(self.limit, self._process.kill)
        overdue.start()
        line = self._process.stdout.readline()
        overdue.cancel()
        if not line:
            raise self._ended()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise PeerError(f"an answer was expected, not {line!r}") from None
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _ended(self) -> PeerError:
        """The process is gone: killed for being late, killed for its memory, or crashed."""
        code = self._process.wait()
        if code == -9:
            return PeerError(f"killed: no answer within {self.limit:.0f} s, or out of memory")
        return PeerError(f"exit status {code}: {last_line(self.log)}")


def make_graph(module: str, *, python: Path, problem: Path, log: Path, seconds: float) -> None:
    """Runs `module PROBLEM`, which makes a peer's graph.

    Args: as those of PeerProcess.

    Raises:
        PeerError: it failed, or took longer.
    """
    try:
        with open(log, "wb") as printed:
            finished = subprocess.run(
                [str(python), "-m", module, str(problem)],
                cwd=ROOT,
                env=own_environment(),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                timeout=seconds,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"no graph: {error}") from None
    if finished.returncode:
        raise PeerError(f"no graph: {last_line(log)}")


def own_environment() -> dict[str, str]:
    """Ours without the variable that would give one environment the packages of another."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def last_line(log: Path) -> str:
    """What a process said last."""
    printed = log.read_text(errors="replace").strip().splitlines()
    return printed[-1] if printed else "no message"
