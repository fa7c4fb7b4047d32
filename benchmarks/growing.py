"""Classes added to a trained adaptor: imprinted, then trained for a few epochs; old and new apart.

    python -m benchmarks.growing FEATURES...

Of each folder, --hold-out classes are held out, an adaptor is trained on the others, and those held
out are added from 5, 20 and all of their training images, with all images of the old classes. Then
it is trained on, also with --balance where there are few new images.
Accuracy is that of the last epoch on test (or val, where there is no test). "From scratch" trains a
new adaptor on the same images for as few epochs and, on the most images, for as many as the first
one had. All runs through the commands a user would type, at their defaults but for --epochs. What
an earlier run of the same options left in --work is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.demo import edgetune_json
from benchmarks.subset import write_subset
from edge_runtime.features import FeatureFolder

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("folders", metavar="FEATURES...", nargs=-1, required=True, type=PATH)
@click.option("--hold-out", default=2, show_default=True, type=click.IntRange(1), help="Classes.")
@click.option("--shots", default="5,20,all", show_default=True, help="Images of each new class.")
@click.option("--kind", default="attention", show_default=True)
@click.option("--epochs", default=40, show_default=True, help="Of the first training.")
@click.option("--few", default=5, show_default=True, help="Epochs after classes were added.")
@click.option("--scratch/--no-scratch", default=True, help="Also train afresh for all epochs.")
@click.option("--seed", default=0, show_default=True)
@click.option("--work", default=Path("growing-out"), show_default=True, type=PATH)
def main(
    folders: tuple[Path, ...],
    hold_out: int,
    shots: str,
    kind: str,
    epochs: int,
    few: int,
    scratch: bool,
    seed: int,
    work: Path,
) -> None:
    """Prints a row a folder, number of images and way; writes results.json into --work."""
    counts = [None if part == "all" else int(part) for part in shots.split(",")]
    results: list[dict[str, Any]] = []
    click.echo(f"{'set':24}{'images':>7}  {'way':26}{'old':>8}{'new':>8}{'all':>8}{'seconds':>9}")
    for folder in folders:
        for row in rows_of(folder, hold_out, counts, kind, epochs, few, scratch, seed, work):
            results.append(row)
            cells = "".join(f"{shown(row[name]):>8}" for name in ("old", "new", "all"))
            click.echo(
                f"{row['set']:24}{row['shots']:>7}  {row['way']:26}{cells}{row['seconds']:>9.1f}"
            )
    (work / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def rows_of(
    folder: Path,
    hold_out: int,
    shots: Sequence[int | None],
    kind: str,
    epochs: int,
    few: int,
    scratch: bool,
    seed: int,
    work: Path,
) -> Iterator[dict[str, Any]]:
    """Every way on one folder."""
    whole = FeatureFolder.open(folder)
    new = held_out(whole.classes, hold_out)
    old = [name for name in whole.classes if name not in new]
    place = work / f"{folder.name}-{kind}-{seed}"

    def features(name: str, classes: Sequence[str], images: int | None) -> Path:
        path = place / name
        if not path.exists():
            write_subset(whole, classes, path, {} if images is None else dict.fromkeys(new, images))
        return path

    def row(way: str, images: int | None, adaptor: Path, seconds: float) -> dict[str, Any]:
        found = evaluated(adaptor, folder, new)
        count = "all" if images is None else str(images)
        return {"set": folder.name, "shots": count, "way": way, **found, "seconds": seconds}

    def trained(name: str, on: Path, *options: object) -> tuple[Path, float]:
        out, note = place / f"{name}.safetensors", place / f"{name}.json"
        if not note.exists():
            common = ["--seed", str(seed), "--out", str(out), "--force"]
            made = edgetune_json("train", str(on), *common, *map(str, options))
            note.write_text(json.dumps(made))
        return out, json.loads(note.read_text())["seconds"]

    old_features = features("old", old, None)
    base, seconds = trained("base", old_features, "--kind", kind, "--epochs", epochs)
    known = evaluated(base, old_features, [])
    yield {"set": folder.name, "shots": "-", "way": "before", **known, "seconds": seconds}
    for images in shots:
        tag = "all" if images is None else images
        new_features = features(f"new-{tag}", new, images)
        both = features(f"both-{tag}", whole.classes, images)
        grown = place / f"grown-{tag}.safetensors"
        options = ["--old", str(old_features), "--out", str(grown), "--force"]
        edgetune_json("add-class", str(base), str(new_features), *options)
        yield row("imprinted", images, grown, 0.0)
        start: tuple[object, ...] = ("--init", grown, "--epochs", few)
        if kind != "linear":  # whose head is all there is
            made = trained(f"head-{tag}", both, *start, "--head-only")
            yield row("+ head only", images, *made)
        yield row("+ full", images, *trained(f"full-{tag}", both, *start))
        if images is not None:
            start += ("--balance",)
            if kind != "linear":
                made = trained(f"head-balanced-{tag}", both, *start, "--head-only")
                yield row("+ head only, balanced", images, *made)
            yield row("+ full, balanced", images, *trained(f"full-balanced-{tag}", both, *start))
        for count in (few, epochs) if scratch and images == shots[-1] else (few,):
            fresh = trained(f"scratch-{tag}-{count}", both, "--kind", kind, "--epochs", count)
            yield row(f"from scratch, {count} epochs", images, *fresh)


def held_out(classes: Sequence[str], count: int) -> list[str]:
    """So many classes, evenly spread over the list."""
    if len(classes) - count < 2:
        raise click.UsageError(
            f"--hold-out {count} leaves fewer than two of {len(classes)} classes"
        )
    return [classes[(2 * index + 1) * len(classes) // (2 * count)] for index in range(count)]


def evaluated(adaptor: Path, folder: Path, new: Sequence[str]) -> dict[str, float | None]:
    """Accuracy on old classes, new ones and all, of the classes that the folder has."""
    found = edgetune_json("evaluate", str(adaptor), str(folder))
    images = {name: sum(row) for name, row in zip(found["classes"], found["confusion"])}
    right = {
        name: row[index]
        for index, (name, row) in enumerate(zip(found["classes"], found["confusion"]))
    }

    def share(names: Sequence[str]) -> float | None:
        total = sum(images[name] for name in names)
        return sum(right[name] for name in names) / total if total else None

    old = [name for name in images if name not in new]
    return {"old": share(old), "new": share(new), "all": share(list(images))}


def shown(accuracy: float | None) -> str:
    """An accuracy in a table."""
    return "-" if accuracy is None else f"{accuracy:.3f}"


if __name__ == "__main__":
    main()
