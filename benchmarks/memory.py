"""Predicted peak RSS against measured, over many configurations, each trained in its own process.

    python -m benchmarks.memory --count 40

Features are made up; shapes, codecs and options run over what boards are given. The measured figure
is VmHWM of the whole process of `edgetune train`.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from tests.feature_folders import write_features

SHAPES = [(17, 96), (50, 192), (197, 192), (197, 384), (197, 768), (257, 1024), (65, 1280)]


@click.command()
@click.option("--count", default=40, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(count: int, seed: int, as_json: bool) -> None:
    """Prints one line a configuration, then the extremes of predicted / measured."""
    rows = []
    for index in range(count):
        row = measure(draw(random.Random(f"{seed} {index}")))
        rows.append(row)
        if not as_json:
            click.echo(
                f"{row['measured_bytes'] / 2**20:7.1f} MiB measured, predicted / measured "
                f"{row['ratio']:.3f}  {row['configuration']}"
            )
    ratios = sorted(row["ratio"] for row in rows)
    if as_json:
        click.echo(json.dumps(rows))
    else:
        click.echo(f"{count} configurations: {ratios[0]:.3f} to {ratios[-1]:.3f}")


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
        "pool": rng.choice(["mean", "cls"]),
        "batch-size": rng.choice([8, 32, 64]),
        "drop-path": rng.choice([0.0, 0.1]),
    }


def measure(configuration: dict[str, Any]) -> dict[str, Any]:
    """Trains two epochs; predicted and measured peak RSS of the process."""
    shape = {k: configuration[k] for k in ("tokens", "embed_dim", "codec", "classes")}
    options = {k: v for k, v in configuration.items() if k not in shape}
    images = max(100, configuration["classes"])
    with tempfile.TemporaryDirectory() as folder:
        features = Path(folder) / "features"
        write_features(
            features, rows={"train": images, "val": 100, "test": 100}, shard_rows=50, **shape
        )
        command = [sys.executable, "-m", "edge_runtime.cli", "train", str(features), "--json"]
        command += ["--out", str(Path(folder) / "adaptor.safetensors"), "--epochs", "2"]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        raise click.ClickException(finished.stderr.strip())
    result = json.loads(finished.stdout)
    predicted, measured = result["predicted_peak_rss_bytes"], result["peak_rss_bytes"]
    return {
        "configuration": configuration,
        "predicted_bytes": predicted,
        "measured_bytes": measured,
        "ratio": predicted / measured,
    }


if __name__ == "__main__":
    main()
