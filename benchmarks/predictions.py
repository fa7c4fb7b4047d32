"""Peak RSS and epoch time as `edgetune plan` predicts them, against measured ones, over many
configurations, each trained in its own process.

    python -m benchmarks.predictions --count 40

Features are made up; shapes, codecs and options run over what boards are given. Peak RSS is VmHWM
of the whole process of `edgetune train`; the time is that of the median epoch, as a calibration
made just before predicts it. Times of epochs are worth what the machine's quiet is.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from tests.feature_folders import write_features

SHAPES = [(17, 96), (50, 192), (197, 192), (197, 384), (197, 768), (257, 1024), (65, 1280)]
IMAGES = 128
SECONDS = 2.0  # a run's training; so the median epoch is one of many
EPOCHS = (5, 200)  # the fewest and the most


@click.command()
@click.option("--count", default=40, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(count: int, seed: int, as_json: bool) -> None:
    """Prints one line a configuration, then the extremes of predicted / measured."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        board = Path(folder) / "board.json"
        for index in range(count):
            edgetune("calibrate", "--out", board, "--force")
            row = measure(draw(random.Random(f"{seed} {index}")), board, Path(folder) / str(index))
            rows.append(row)
            if not as_json:
                click.echo(
                    f"{row['measured_bytes'] / 2**20:7.1f} MiB, predicted / measured "
                    f"{row['ratio']:.3f}; {row['measured_seconds']:7.3f} s an epoch, "
                    f"{row['seconds_ratio']:.2f}  {row['configuration']}"
                )
    if as_json:
        click.echo(json.dumps(rows))
        return
    for name, ratio in (("peak RSS", "ratio"), ("seconds an epoch", "seconds_ratio")):
        ratios = sorted(row[ratio] for row in rows)
        click.echo(
            f"{name}, predicted / measured, {count} configurations: {ratios[0]:.3f} to "
            f"{ratios[-1]:.3f}, median {statistics.median(ratios):.3f}"
        )
    within = sum(abs(row["seconds_ratio"] - 1) <= 0.25 for row in rows)
    click.echo(f"{within} of {count} epochs within 25 %")


def draw(rng: random.Random) -> dict[str, Any]:
    """One configuration."""
    tokens, dim = rng.choice(SHAPES)
    heads = rng.choice([1, 1, 2, 4])
    return {
        "tokens": tokens,
        "embed_dim": dim,
        "codec": rng.choice(["float16", "float16", "float32", "int8"]),
        "classes": rng.choice([2, 10, 100]),
        "kind": rng.choice(["attention", "attention", "attention", "linear"]),
        "rank": rng.choice([4, 8, 16]),
        "blocks": rng.choice([1, 2, 4, 6]),
        "heads": heads,
        "pool": rng.choice(["mean", "cls", "cls+mean"]),
        "batch-size": rng.choice([8, 32, 64]),
        "drop-path": rng.choice([0.0, 0.1]),
    }


def measure(configuration: dict[str, Any], board: Path, folder: Path) -> dict[str, Any]:
    """Trains some epochs; predicted and measured peak RSS and seconds of an epoch's training."""
    shape = {k: configuration[k] for k in ("tokens", "embed_dim", "codec", "classes")}
    options = [f"--{k}={v}" for k, v in configuration.items() if k not in shape]
    rows = {"train": IMAGES, "val": 64, "test": 64}
    write_features(folder / "features", rows=rows, shard_rows=50, **shape)
    plan = edgetune("plan", folder / "features", "--board", board, *options)
    out = folder / "adaptor.safetensors"
    epochs = min(max(round(SECONDS / plan["predicted_epoch_seconds"]), EPOCHS[0]), EPOCHS[1])
    result = edgetune("train", folder / "features", "--out", out, "--epochs", epochs, *options)
    seconds = statistics.median(IMAGES / epoch["rate"] for epoch in result["history"])
    predicted, measured = result["predicted_peak_rss_bytes"], result["peak_rss_bytes"]
    return {
        "configuration": configuration,
        "predicted_bytes": predicted,
        "measured_bytes": measured,
        "ratio": predicted / measured,
        "predicted_seconds": plan["predicted_training_seconds"],
        "measured_seconds": seconds,
        "seconds_ratio": plan["predicted_training_seconds"] / seconds,
    }


def edgetune(*arguments: object) -> dict[str, Any]:
    """Runs a command in a process of its own; its JSON."""
    command = [sys.executable, "-m", "edge_runtime.cli", *map(str, arguments), "--json"]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        raise click.ClickException(finished.stderr.strip())
    return dict(json.loads(finished.stdout))


if __name__ == "__main__":
    main()
