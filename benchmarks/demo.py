"""The main job from end to end, on real images, with the commands a user would type.

    make demo
    make demo ARGS='--backbone vit_tiny_patch16_224 --checkpoint weights.safetensors'

Its images are scikit-learn's handwritten digits, which ship inside that package; its backbone, a
small vision transformer that lies in this repository (benchmarks/demo_backbone). No network.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from edge_runtime.atomic import remove

HERE = Path(__file__).parent
DEMO_BACKBONE = HERE / "demo_backbone"
IMAGE_SIZE = 32  # pixels; the digits are 8 x 8
MADE = ("images", "backbone", "features", "features.partial")
MADE += tuple(
    f"{kind}{part}.safetensors" for kind in ("probe", "adaptor") for part in ("", ".best")
)
SPLITS = {"train": 800, "val": 200, "test": 797}


@click.command()
@click.option("--backbone", help="A timm model in place of the small one of this repository.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Its weights; else the hub's.")
@click.option("--epochs", default=40, show_default=True)
@click.option("--rank", default=8, show_default=True)
@click.option("--blocks", default=4, show_default=True)
@click.option("--budget", default="48MiB", show_default=True, help="Memory budget of training.")
@click.option(
    "--work", default=Path("demo-out"), show_default=True, type=click.Path(path_type=Path)
)
def main(
    backbone: str | None,
    checkpoint: Path | None,
    epochs: int,
    rank: int,
    blocks: int,
    budget: str,
    work: Path,
) -> None:
    """Export, extract, train, evaluate and predict; ends with a table."""
    started = time.monotonic()
    if backbone is None:
        checkpoint = Path(os.path.relpath(DEMO_BACKBONE))
        backbone = json.loads((checkpoint / "config.json").read_text())["architecture"]
    for name in MADE:
        remove(work / name)
    images, model, features = work / "images", work / "backbone", work / "features"
    write_digits(images)

    weights = ["--checkpoint", str(checkpoint)] if checkpoint else []
    edgetune("export", backbone, "--out", str(model), *weights)
    extracted = edgetune_json(
        "extract", str(images), "--backbone", str(model), "--out", str(features)
    )
    common = ["train", str(features), "--epochs", str(epochs), "--memory-budget", budget]
    probe = edgetune_json(*common, "--kind", "linear", "--out", str(work / "probe.safetensors"))
    adaptor = work / "adaptor.safetensors"
    shape = ["--rank", str(rank), "--blocks", str(blocks)]
    trained = edgetune_json(*common, *shape, "--out", str(adaptor))
    edgetune("evaluate", str(adaptor), str(features))
    singles = [str(next((images / "test" / digit).iterdir())) for digit in ("3", "8")]
    edgetune("predict", *singles, "--adaptor", str(adaptor), "--backbone", str(model))
    print_table(extracted, probe, trained, time.monotonic() - started)


def write_digits(root: Path) -> None:
    """Writes the digits as root/{train,val,test}/CLASS/NUMBER.png, shuffled by a fixed seed."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = list(range(len(digits.images)))
    random.Random(0).shuffle(order)
    position = 0
    for split, count in SPLITS.items():
        for index in order[position : position + count]:
            folder = root / split / str(digits.target[index])
            folder.mkdir(parents=True, exist_ok=True)
            pixels = (digits.images[index] * (255 / 16)).round().astype("uint8")
            image = Image.fromarray(pixels).resize((IMAGE_SIZE, IMAGE_SIZE), Image.BICUBIC)
            image.save(folder / f"{index:04d}.png")
        position += count
    click.echo(f"{root}: {len(order)} handwritten digits as PNG files, {SPLITS}")


def edgetune(*arguments: str, capture: bool = False) -> str:
    """Runs one command of edgetune, showing it; returns what it printed, if captured."""
    click.secho(f"$ edgetune {' '.join(arguments)}", bold=True)
    command = [sys.executable, "-m", "edge_runtime.cli", *arguments]
    pipe = subprocess.PIPE if capture else None
    finished = subprocess.run(command, stdout=pipe, text=True)
    if finished.returncode:
        raise click.ClickException(f"edgetune {arguments[0]} exited with {finished.returncode}")
    return finished.stdout or ""


def edgetune_json(*arguments: str) -> dict[str, Any]:
    """Runs one command with --json and returns its result."""
    return dict(json.loads(edgetune(*arguments, "--json", capture=True)))


def print_table(
    extracted: dict[str, Any], probe: dict[str, Any], trained: dict[str, Any], seconds: float
) -> None:
    """The result in a few lines."""
    click.echo()
    click.echo(f"{'':22}{'linear probe':>14}{'adaptor':>14}")
    rows = [
        ("test accuracy", "test_accuracy", "{:.4f}", 1),
        ("trainable parameters", "parameters", "{:d}", 1),
        ("training, s", "seconds", "{:.1f}", 1),
        ("peak RSS, MiB", "peak_rss_bytes", "{:.1f}", 2**20),
        ("memory budget, MiB", "memory_budget_bytes", "{:.1f}", 2**20),
    ]
    for name, key, form, unit in rows:
        cells = [form.format(run[key] / unit if unit > 1 else run[key]) for run in (probe, trained)]
        click.echo(f"{name:22}{cells[0]:>14}{cells[1]:>14}")
    click.echo(f"{'bytes an image':22}{extracted['bytes_per_image']:>14}   (stored, float16)")
    click.echo(f"{'whole demo, s':22}{seconds:>14.1f}")


if __name__ == "__main__":
    main()
