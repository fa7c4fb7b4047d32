"""One peer in its own process: it answers requests, a line each, until its input ends.

    python -m benchmarks.peers.worker MODULE PROBLEM THREADS

| request          | answer                                                                    |
|------------------|---------------------------------------------------------------------------|
| (none, at start) | `{"versions": {...}}`                                                     |
| `gradients FILE` | `{"loss": ...}`, after writing the gradient of every parameter to FILE    |
| `step N`         | `{"seconds": ...}` that N steps took together                             |
| `peak`           | `{"peak_rss_bytes": ...}` of this process                                 |

Answers are JSON, a line each; `{"error": ...}` is the last one. What a framework prints goes to
standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from benchmarks.peers.problem import Problem
from edge_runtime import tensorfile
from edge_runtime.memory import peak_rss_bytes

Array = np.ndarray[Any, Any]


class PeerTrainer(Protocol):
    """One way to train the problem's adaptor, made by a module's `trainer(problem, threads)`."""

    versions: dict[str, str]

    def gradients(self) -> tuple[float, dict[str, Array]]:
        """Mean cross-entropy of the batch, and its gradient by parameter (`by_block`)."""

    def step(self) -> None:
        """Forward, backward and AdamW on the batch."""


def main() -> None:
    """Serves one peer."""
    name, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    answers = claim_stdout()
    keep_to_cores(threads)
    try:
        module = importlib.import_module(name)
        trainer: PeerTrainer = module.trainer(Problem.read(folder), threads)
        answer(answers, versions=trainer.versions)
        for line in sys.stdin:
            answer(answers, **serve(trainer, *line.split()))
    except Exception as error:
        traceback.print_exc()
        text = str(error).strip().splitlines()
        answer(answers, error=f"{type(error).__name__}: {text[0] if text else ''}")
        sys.exit(1)


def serve(trainer: PeerTrainer, request: str, argument: str = "") -> dict[str, Any]:
    """Does one request."""
    if request == "gradients":
        loss, gradients = trainer.gradients()
        tensorfile.write(Path(argument), gradients, {})
        return {"loss": loss}
    if request == "step":
        before = time.perf_counter()
        for _ in range(int(argument)):
            trainer.step()
        return {"seconds": time.perf_counter() - before}
    if request == "peak":
        return {"peak_rss_bytes": peak_rss_bytes()}
    raise ValueError(f"unknown request {request!r}")


def answer(answers: TextIO, **content: Any) -> None:
    """Writes one answer."""
    print(json.dumps(content), file=answers, flush=True)


def claim_stdout() -> TextIO:
    """A file on what was standard output; whoever prints from now on prints to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def keep_to_cores(threads: int) -> None:
    """Keeps the process to as many cores as it has threads: not every framework can be told."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[-threads:])


if __name__ == "__main__":
    main()
