"""What a run went through, kept beside its adaptor OUT, with `.history.json` for its suffix.

Not in the adaptor file, which is the same to the byte however often its run was interrupted: times
and peaks are not. It names the adaptor files of the run by CRC-32, so that it is never taken for
another's. docs/formats.md says what it holds.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import __version__, formats
from edge_runtime.errors import FormatError
from trainer_lite.reports import TrainResult

PARTS = ("baseline", "blas", "object", "parameter", "weights", "arena")
MARKS = (".best", ".stopped")  # as outputs.py puts them before a suffix
PIECE_BYTES = 1 << 16
WHOLE = ("steps", "skipped_steps", "threads")
PLANNED = ("tile_images", "lanes", "predicted_peak_rss_bytes", "peak_rss_bytes")
MOST = 1e30  # of losses, rates, seconds: what is above is no measurement


def history_path(out: Path) -> Path:
    """Where the history of the run lies that writes `out`."""
    return out.with_name(f"{out.stem}.history.json")


def out_of(adaptor: Path) -> Path:
    """The OUT of the run that wrote a file, by its name: without `.best` or `.stopped`."""
    for mark in MARKS:
        if adaptor.stem.endswith(mark) and adaptor.stem != mark:
            return adaptor.with_name(adaptor.stem[: -len(mark)] + adaptor.suffix)
        if adaptor.suffix == mark:  # OUT had no suffix
            return adaptor.with_suffix("")
    return adaptor


def write_history(
    path: Path,
    adaptors: Mapping[str, Path],
    result: TrainResult,
    *,
    threads: int,
    memory_budget: int | None,
) -> None:
    """Writes the history of a run that has come to its end.

    Args:
        adaptors: the files that it wrote, by what they are: `last`, `best`, `stopped`.

    Raises:
        OSError: it cannot be written.
    """
    plan, best = result.plan, result.best_epoch
    content = {
        "format": formats.HISTORY,
        "version": formats.VERSION,
        "adaptors": {name: file_crc32(file) for name, file in adaptors.items()},
        "epochs": [asdict(report) for report in result.history],
        "best_epoch": None if best is None else best.epoch,
        "test_accuracy": None if result.test is None else result.test.accuracy,
        "steps": result.steps,
        "skipped_steps": result.skipped_steps,
        "seconds": result.seconds,
        "threads": threads,
        "memory": {
            "tile_images": plan.tile_images,
            "lanes": plan.lanes,
            **{f"{part}_bytes": getattr(plan, f"{part}_bytes") for part in PARTS},
            "predicted_peak_rss_bytes": plan.predicted_peak_rss_bytes,
            "peak_rss_bytes": result.peak_rss_bytes,
            "memory_budget_bytes": memory_budget,
        },
        "versions": {
            "edgetune": __version__,
            "numpy": np.__version__,
            "python": ".".join(map(str, sys.version_info[:3])),
        },
    }
    formats.write_json(path, content)


def history_of(adaptor: Path) -> formats.Json:
    """The history of the run that wrote an adaptor file.

    Raises:
        FormatError: it is not there, is damaged, or is another file's.
    """
    paths = [history_path(adaptor), history_path(out_of(adaptor))]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise FormatError(f"{paths[-1]} is not there")
    try:
        content = read_history(found)
    except OSError as error:
        raise FormatError(f"{found}: {error.strerror}") from None
    if file_crc32(adaptor) not in content["adaptors"].values():
        raise FormatError(f"{found} is of another adaptor than {adaptor.name}")
    return content


def read_history(path: Path) -> formats.Json:
    """Reads a history, every entry checked.

    Raises:
        FormatError: damaged, or of a version not known here.
    """
    content = formats.read_json(path)
    formats.check_version(content, formats.HISTORY, path)
    formats.field(content, "adaptors", dict, path)
    epochs = formats.field(content, "epochs", list, path)
    if not epochs:
        raise FormatError(f"{path}: there is no epoch in it")
    for number, entry in enumerate(epochs, 1):
        if not isinstance(entry, dict) or entry.get("epoch") != number:
            raise FormatError(f"{path}: epoch {number} is missing or damaged")
        for key in ("train_loss", "rate"):
            check_number(entry, key, MOST, path)
        for key in ("train_accuracy", "val_accuracy"):
            check_number(entry, key, 1.0, path, known=key != "val_accuracy")
    check_number(content, "test_accuracy", 1.0, path, known=False)
    check_number(content, "seconds", MOST, path)
    for key in WHOLE:
        formats.whole(content, key, 0, path)
    best = content.get("best_epoch", 0)
    if best is not None and not (type(best) is int and 1 <= best <= len(epochs)):
        raise FormatError(f"{path}: entry 'best_epoch' names no epoch")
    memory = formats.field(content, "memory", dict, path)
    for key in (*PLANNED, *(f"{part}_bytes" for part in PARTS)):
        formats.whole(memory, key, 0, path)
    if memory.get("memory_budget_bytes") is not None:
        formats.whole(memory, "memory_budget_bytes", 0, path)
    formats.field(content, "versions", dict, path)
    return content


def check_number(
    content: Mapping[str, Any], key: str, most: float, path: Path, *, known: bool = True
) -> None:
    """FormatError where an entry is no number from 0 to `most`; null is one that is not known."""
    if not known and key in content and content[key] is None:
        return
    if not 0 <= formats.field(content, key, (int, float), path) <= most:
        raise FormatError(f"{path}: entry {key!r} must be from 0 to {most:g}")


def file_crc32(path: Path) -> int:
    """CRC-32 of a file, read in pieces."""
    crc = 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            crc = zlib.crc32(piece, crc)
    return crc
