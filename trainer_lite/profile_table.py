"""A profile for machines and for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edge_runtime.flops import forward_macs, textbook_forward_macs
from trainer_lite.clocks import Measured
from trainer_lite.profiler import Profile, StageProfile
from trainer_lite.rates import limit

SHOWN = 10  # operations listed one by one
WIDTHS = {"runs": 6, "MMACs": 10, "MFLOPs": 10, "MB": 9, "ms": 9, "%": 7, "GFLOP/s": 9}
HEAD = " " * 44 + "".join(f"{name:>{width}}" for name, width in WIDTHS.items()) + "  of limit"

Json = dict[str, Any]


def as_object(profile: Profile, rates: Mapping[str, float]) -> Json:
    """Everything that was measured, and the limits it is held against."""
    config, layout = profile.config, profile.plan.layout
    return {
        "config": config.to_json(),
        "batch_size": profile.training.images,
        "tile_images": profile.tile,
        "training": stage_object(profile.training, rates),
        "inference": stage_object(profile.inference, rates),
        "macs": {
            "training_step": profile.plan.macs,
            "forward_image": forward_macs(config),
            "forward_image_textbook": textbook_forward_macs(config),
        },
        "peak_rss_bytes": profile.peaks,
        "arena": {
            "bytes": layout.nbytes,
            "operations": profile.sections,
            "buffers": [
                {
                    "name": buffer.name,
                    "bytes": buffer.nbytes,
                    "offset": layout.offsets[buffer.name],
                    "first": buffer.first,
                    "last": buffer.last,
                }
                for buffer in layout.lifetimes
            ],
        },
        "rates": dict(rates),
    }


def stage_object(stage: StageProfile, rates: Mapping[str, float]) -> Json:
    """A stage's operations and their totals; `seconds` is without clocks, `other` what is left."""
    operations = [operation_object(measured, rates) for measured in stage.operations]
    return {
        "images": stage.images,
        "seconds": stage.seconds,
        "other_seconds": stage.seconds - sum(o["seconds"] for o in operations),
        **{key: sum(o[key] for o in operations) for key in ("macs", "flops", "bytes")},
        "limit_seconds": sum(o["limit_seconds"] for o in operations),
        "operations": operations,
    }


def operation_object(measured: Measured, rates: Mapping[str, float]) -> Json:
    """One operation, all its runs together."""
    operation, cost = measured.operation, measured.cost
    return {
        "section": operation.section,
        "operation": operation.name,
        "runs": measured.runs,
        "macs": cost.macs,
        "flops": cost.flops,
        "bytes": cost.bytes,
        "seconds": measured.seconds,
        "limit_seconds": limit(operation, cost, rates),
    }


def as_table(content: Json) -> str:
    """Sections of a step and of an inference, the slowest operations, memory."""
    training, inference, arena = content["training"], content["inference"], content["arena"]
    lines = [f"a training step: {training['images']} images in tiles of {content['tile_images']}"]
    lines += [HEAD, *rows(training, sections(training["operations"]))]
    lines += ["", f"its {SHOWN} slowest operations", HEAD]
    slowest = sorted(training["operations"], key=lambda o: -o["seconds"])[:SHOWN]
    for o in slowest:
        lines.append(row(f"{o['section']}, {o['operation']}", o, training["seconds"]))
    lines += ["", "inference of one image", HEAD]
    lines += [*rows(inference, sections(inference["operations"])), ""]
    for phase, peak in content["peak_rss_bytes"].items():
        lines.append(f"peak RSS, {phase:34}{peak / 2**20:9.2f} MiB")
    buffers = len(arena["buffers"])
    lines.append(f"{'arena':44}{arena['bytes'] / 2**20:9.2f} MiB in {buffers} buffers")
    return "\n".join(lines)


def sections(operations: list[Json]) -> dict[str, Json]:
    """Operations of one section added up, the blocks together."""
    found: dict[str, Json] = {}
    for operation in operations:
        name = re.sub(r"block \d+", "blocks", operation["section"])
        total = found.setdefault(name, dict.fromkeys(ADDED, 0))
        for key in ADDED:
            total[key] += operation[key]
    return found


ADDED = ("runs", "macs", "flops", "bytes", "seconds", "limit_seconds")


def rows(stage: Json, parts: dict[str, Json]) -> list[str]:
    """A line a section, and the sum."""
    lines = [row(name, part, stage["seconds"]) for name, part in parts.items()]
    lines.append(f"{'between operations':79}{stage['other_seconds'] * 1e3:9.3f}")
    total = {**stage, "runs": sum(part["runs"] for part in parts.values())}
    return [*lines, row("all", total, stage["seconds"])]


def row(name: str, part: Json, whole: float) -> str:
    """One line of the table."""
    seconds = max(part["seconds"], 1e-12)
    return (
        f"{name[:43]:44}{part['runs']:6}{part['macs'] / 1e6:10.2f}{part['flops'] / 1e6:10.2f}"
        f"{part['bytes'] / 1e6:9.2f}{seconds * 1e3:9.3f}{100 * seconds / whole:7.1f}"
        f"{part['flops'] / seconds / 1e9:9.2f}{part['limit_seconds'] / seconds:9.0%} "
    ).rstrip()
