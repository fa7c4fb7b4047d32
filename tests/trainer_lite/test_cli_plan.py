"""`edgetune plan`: for features and for shapes, for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import edgetune
from tests.feature_folders import write_features

KEYS = {
    "tile_images",
    "lanes",
    "loading_bytes",
    "baseline_bytes",
    "blas_bytes",
    "parameter_bytes",
    "weights_bytes",
    "arena_bytes",
    "object_bytes",
    "predicted_peak_rss_bytes",
    "memory_budget_bytes",
    "address_space_bytes",
    "data_segment_bytes",
    "least_budget_bytes",
    "parameters",
    "steps_per_epoch",
    "macs_per_step",
    "flops_per_step",
    "macs_per_epoch",
    "flops_per_epoch",
    "arena_buffers",
}


def test_json_for_features(tmp_path: Path) -> None:
    written = write_features(tmp_path / "features")
    found = json.loads(edgetune("plan", written.path, "--batch-size", 10, "--json").stdout)
    assert set(found) == KEYS
    assert found["steps_per_epoch"] == 3
    assert found["flops_per_epoch"] == 2 * found["macs_per_epoch"] == 6 * found["macs_per_step"]
    largest = found["arena_buffers"][0]
    assert set(largest) == {
        "name",
        "bytes",
        "offset_bytes",
        "first_operation",
        "last_operation",
    }
    assert largest["offset_bytes"] + largest["bytes"] <= found["arena_bytes"]


def test_table_for_a_shape() -> None:
    table = edgetune("plan", "--shape", "197x768", "--classes", 100).stdout
    for part in ("process before training", "arena", "predicted peak RSS", "GMACs", "GFLOPs"):
        assert part in table
    assert "261220 trainable" in table


def test_options_change_the_plan() -> None:
    def parameters(*options: object) -> int:
        shape = ("plan", "--shape", "50x64", "--json")
        return int(json.loads(edgetune(*shape, *options).stdout)["parameters"])

    assert parameters("--rank", 4) < parameters() < parameters("--blocks", 6)
    assert parameters("--kind", "linear") < parameters("--rank", 4)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "give FEATURES"),
        (("--shape", "197x768", "--init", "a"), 2, "--init is planned with FEATURES"),
        (("--shape", "197x768", "--head-only"), 2, "--head-only needs --init"),
        (("--shape", "197by768"), 2, "is no shape; write tokens x dim, as 197x768"),
        (("--shape", "197x768", "--memory-budget", "lots"), 2, "is no size; write bytes"),
        (("--shape", "197x768", "--memory-budget", "1MB"), 1, "cannot be kept: the least is"),
        (("--shape", "197x768", "--memory-budget", "9" * 400 + "GiB"), 2, "is no size"),
        (("--shape", "197x768", "--images", -5), 2, "--images"),
        (("--shape", "197x768", "--images", 10), 1, "larger than the 10 images"),
        (("--shape", "197x768", "--rank", 1000), 1, "above the feature width"),
        (("--shape", "0x768"), 1, "at least one patch token"),
        (("nowhere",), 1, "is not a feature folder"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(arguments: tuple[object, ...], code: int, message: str) -> None:
    result = edgetune("plan", *arguments)
    assert result.exit_code == code
    assert message in result.stderr
