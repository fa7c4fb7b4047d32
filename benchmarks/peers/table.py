"""Rows of the comparison as a table and as JSON."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from typing import Any

from benchmarks.peers.compare import TOLERANCE, Row
from benchmarks.peers.environments import Installed
from benchmarks.timing import cpu_flags

HEADS = (
    "peer",
    "step, ms",
    "to eager",
    "gradients",
    "last loss",
    "peak RSS, MiB",
    "install, MiB",
    "aarch64 wheel",
    "versions",
)
EXPLANATION = f"""\
step: forward, backward and AdamW, median of {{turns}} turns, {{threads}} thread(s) on as many cores
to eager: median of the ratios to PyTorch eager, turn by turn
gradients: largest relative difference from ours, of loss and all gradients (at most {TOLERANCE:g})
last loss: relative difference from ours after the last step (ONNX Runtime decays vectors too)
peak RSS: VmHWM of the peer's own process, the batch of features included
install: on disk, beyond an empty virtual environment"""


def table(rows: list[Row], *, turns: int, threads: int) -> str:
    """Columns of text, the rows without a time below them with their reasons."""
    eager = named(rows, "torch_eager")
    timed = [row for row in rows if row.reason is None]
    cells = [HEADS, *(cells_of(row, eager) for row in timed if row.peer.has_gradients)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells
    ]
    lines += [f"{row.peer.title}: no time: {row.reason}" for row in rows if row.reason]
    floor = rows[0].ratio_to(named(rows, "floor"))
    if floor is not None:
        lines += ["", f"ours takes {floor:.2f} x its two products of the stored width alone"]
    machine = f"{platform.machine()}, AVX-512 {'yes' if has_avx512() else 'no'}"
    return "\n".join([*lines, "", EXPLANATION.format(turns=turns, threads=threads), machine])


def cells_of(row: Row, eager: Row | None) -> tuple[str, ...]:
    """One row's cells, in the order of HEADS; a dash where there is nothing to tell."""
    install_bytes = row.installed.install_bytes if row.installed else None
    return (
        row.peer.title,
        shown(row.step_seconds, 1e3, ".1f"),
        shown(row.ratio_to(eager), 1, ".3f"),
        shown(row.gradient_difference, 1, ".0e"),
        shown(row.final_loss_difference, 1, ".0e"),
        shown(row.peak_rss_bytes, 2**-20, ".0f"),
        shown(install_bytes, 2**-20, ".0f"),
        wheel(row.installed),
        ", ".join(f"{name} {version}" for name, version in row.versions.items()),
    )


def wheel(installed: Installed | None) -> str:
    """Whether there is a wheel for 64-bit ARM, and when the package index was asked."""
    if installed is None or installed.aarch64_wheel is None:
        return "-"
    return f"{'yes' if installed.aarch64_wheel else 'no'} ({installed.asked})"


def shown(value: float | None, scale: float, form: str) -> str:
    return "-" if value is None else format(value * scale, form)


def as_json(rows: list[Row], **settings: Any) -> str:
    """Everything that was found, for machines."""
    eager, floor = named(rows, "torch_eager"), named(rows, "floor")
    return json.dumps(
        {
            **settings,
            "machine": platform.machine(),
            "avx512": has_avx512(),
            "ratio_to_two_wide_products": rows[0].ratio_to(floor),
            "peers": [
                {
                    **asdict(row),
                    "peer": row.peer.name,
                    "step_seconds": row.step_seconds,
                    "ratio_to_torch_eager": row.ratio_to(eager),
                }
                for row in rows
            ],
        },
        indent=1,
    )


def named(rows: list[Row], name: str) -> Row | None:
    """The row of that peer, if it takes part."""
    return next((row for row in rows if row.peer.name == name), None)


def has_avx512() -> bool:
    return "avx512f" in cpu_flags()
