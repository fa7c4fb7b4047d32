"""Each run as a process of its own, for its peak RSS and its processor time."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.methods.methods import BY_NAME
from benchmarks.methods.study import Run
from edge_runtime.errors import EdgeError

TRAIN = ("-m", "edge_runtime.cli", "train")
WORKER = ("-m", "benchmarks.methods.worker")
KEPT = ("val_accuracy", "test_accuracy", "train_loss", "parameters", "peak_rss_bytes")


def execute_in(work: Path, run: Run, device: str = "cpu") -> dict[str, Any]:
    """Trains one method with one thread; processor seconds are of the whole process.

    Args:
        device: where PyTorch trains; ours trains in numpy.

    Raises:
        EdgeError: the process failed; its own words are the message.
    """
    options = [f"--lr={run.lr:g}", f"--weight-decay={run.weight_decay:g}"]
    options += [f"--seed={run.seed}", f"--epochs={run.epochs}"]
    if BY_NAME[run.method].network == "adaptor":
        adaptor = work / "adaptors" / f"{Path(run.file).stem}.safetensors"
        command = [*TRAIN, str(features_folder(work, run.set)), "--force", "--json"]
        command += ["--out", str(adaptor), *options]
    else:
        command = [
            *WORKER,
            str(taps_folder(work, run.set)),
            run.method,
            *options,
            f"--device={device}",
        ]
    before = children_seconds()
    finished = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    if finished.returncode:
        reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EdgeError(f"{run.method} on {run.set} failed: {reason}")
    result = json.loads(finished.stdout)
    return {**{key: result[key] for key in KEPT}, "cpu_seconds": children_seconds() - before}


def children_seconds() -> float:
    """Processor seconds of all processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def features_folder(work: Path, name: str) -> Path:
    """Where a set's feature folder is kept."""
    return work / f"{name}-features"


def taps_folder(work: Path, name: str) -> Path:
    """Where a set's taps are kept."""
    return work / f"{name}-taps"
