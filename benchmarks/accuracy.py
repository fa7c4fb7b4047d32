"""Accuracy of the adaptor and of the linear probe on real image sets, several seeds each.

    python -m benchmarks.accuracy DATA --backbone vit_tiny_patch16_224 --checkpoint WEIGHTS

DATA holds one folder a set, each with {train,val,test}/class/*. Everything runs at its defaults but
for the number of epochs; test is reported of the last epoch and chooses nothing. Features are kept
in --work and reused.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import click

from benchmarks.demo import edgetune, edgetune_json

PATH = click.Path(path_type=Path)
KINDS = ("linear", "attention")


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--backbone", required=True, help="A timm model.")
@click.option("--checkpoint", type=PATH, help="Its weights; else the hub's.")
@click.option("--epochs", default=60, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--codec", default="float16", show_default=True)
@click.option("--fit-on", default="train", show_default=True)
@click.option("--only", multiple=True, help="Names of sets; all by default.")
@click.option("--work", default="accuracy-out", show_default=True, type=PATH)
def main(
    data: Path,
    backbone: str,
    checkpoint: Path | None,
    epochs: int,
    seeds: int,
    codec: str,
    fit_on: str,
    only: tuple[str, ...],
    work: Path,
) -> None:
    """Prints one row a set and kind, and writes results.json into --work."""
    model = work / "backbone"
    if not model.exists():
        weights = ["--checkpoint", str(checkpoint)] if checkpoint else []
        edgetune("export", backbone, "--out", str(model), *weights)
    names = only or sorted(path.parent.name for path in data.glob("*/train") if path.is_dir())
    results: list[dict[str, Any]] = []
    for name in names:
        features = work / f"{name}-{codec}"
        if not features.exists():
            common = ["--backbone", str(model), "--codec", codec, "--out", str(features)]
            edgetune("extract", str(data / name), *common)
        for kind in KINDS:
            runs = [
                edgetune_json(
                    "train",
                    str(features),
                    *["--kind", kind, "--epochs", str(epochs), "--seed", str(seed)],
                    *["--fit-on", fit_on, "--force"],
                    *["--out", str(work / f"{name}-{kind}-{seed}.safetensors")],
                )
                for seed in range(seeds)
            ]
            results.append({"set": name, "kind": kind, **combine(runs)})
    (work / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    click.echo(f"\n{'set':16}{'kind':12}{'test accuracy':>14}{'std':>8}  {'seeds':24}peak RSS, MiB")
    for row in results:
        each = " ".join(f"{accuracy:.3f}" for accuracy in row["test_accuracies"])
        mean, spread = row["mean_test_accuracy"], row["std_test_accuracy"]
        peak = row["peak_rss_bytes"] / 2**20
        click.echo(
            f"{row['set']:16}{row['kind']:12}{mean:>14.4f}{spread:>8.4f}  {each:24}{peak:.1f}"
        )


def combine(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over the seeds."""
    accuracies = [run["test_accuracy"] for run in runs]
    return {
        "test_accuracies": accuracies,
        "mean_test_accuracy": statistics.mean(accuracies),
        "std_test_accuracy": statistics.pstdev(accuracies),
        "parameters": runs[0]["parameters"],
        "peak_rss_bytes": max(run["peak_rss_bytes"] for run in runs),
        "seconds": statistics.median(run["seconds"] for run in runs),
    }


if __name__ == "__main__":
    main()
