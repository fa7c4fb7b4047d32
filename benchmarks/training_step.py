"""One training step (forward, backward, AdamW) in numpy against PyTorch eager, side by side.

    python -m benchmarks.training_step --threads 1 --repeats 15

The gradients are checked equal first. Both train the same adaptor on the same features; PyTorch
gets them as float32 tensors, numpy as the stored float16 that a device reads. The steps alternate,
so that a drifting machine hits both; the ratio is the median of the pairwise ratios.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import click


@click.command()
@click.option("--tokens", default=197, show_default=True)
@click.option("--dim", default=768, show_default=True)
@click.option("--blocks", default=4, show_default=True)
@click.option("--rank", default=8, show_default=True)
@click.option("--heads", default=1, show_default=True)
@click.option("--classes", default=100, show_default=True)
@click.option("--batch", default=32, show_default=True)
@click.option("--tile", default=None, type=int, help="Images a pass; default: as in training.")
@click.option("--threads", default=1, show_default=True)
@click.option("--repeats", default=15, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(threads: int, repeats: int, as_json: bool, **shape: Any) -> None:
    """Prints seconds a step, ratio to PyTorch eager, and ratio to the two wide products alone."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    result = measure(threads, repeats, **shape)
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        click.echo(f"{name:36} {value}")


def measure(
    threads: int,
    repeats: int,
    *,
    tokens: int,
    dim: int,
    blocks: int,
    rank: int,
    heads: int,
    classes: int,
    batch: int,
    tile: int | None,
) -> dict[str, Any]:
    """Times both implementations and the floor; one dict of results."""
    import numpy as np
    import torch

    from benchmarks.stored import StoredHalf
    from edge_runtime.config import AdaptorConfig
    from edge_runtime.forward import default_tile
    from edge_runtime.program import Workspace
    from edge_runtime.weights import FusedWeights
    from tests.torch_reference import adaptor_logits, to_torch
    from trainer_lite.build import StepShape, build_step, plan_step
    from trainer_lite.optim import AdamW
    from trainer_lite.parameters import ParameterSet

    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    config = AdaptorConfig(
        "attention", tokens, 1, dim, classes, rank, blocks, heads, "mean", 1e-6, 4.0
    )
    stored = (rng.standard_normal((batch, tokens, dim)) * 4).astype(np.float16)
    decoded = stored.astype(np.float32)
    labels = rng.integers(0, classes, batch)
    everything = np.arange(batch)

    parameters = ParameterSet(config, np.float32)
    parameters.initialise(0)
    parameters.values["blocks.out"][...] = rng.standard_normal((blocks, rank, dim)) * 0.1
    start = {name: array.copy() for name, array in parameters.values.items()}
    images = tile or default_tile(tokens)
    source = StoredHalf(stored, labels)
    weights = FusedWeights(config, parameters.values, Workspace())
    step_shape = StepShape(batch=batch, tile=images)
    plan = plan_step(weights, parameters.gradients, source, step_shape)
    step, _ = build_step(weights, parameters.gradients, source, step_shape, plan)
    optimiser = AdamW(
        parameters.flat,
        parameters.flat_gradient,
        decayed=parameters.decayed,
        weight_decay=0.05,
    )

    leaves = to_torch(start)
    features, targets = torch.tensor(decoded), torch.tensor(labels)
    decay = [leaf for leaf in leaves.values() if leaf.dim() >= 2]
    rest = [leaf for leaf in leaves.values() if leaf.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    peer = torch.optim.AdamW(groups, lr=1e-3)

    def peer_gradient() -> None:
        peer.zero_grad()
        logits = adaptor_logits(config, leaves, features)
        torch.nn.functional.cross_entropy(logits, targets).backward()

    step.run(everything, labels)
    peer_gradient()
    worst = max(
        float(
            np.abs(parameters.gradients[name] - leaf.grad.numpy()).max()
            / np.abs(leaf.grad.numpy()).max()
        )
        for name, leaf in leaves.items()
        if leaf.grad is not None and float(leaf.grad.abs().max()) > 1e-7
    )

    def ours_step() -> None:
        step.run(everything, labels)
        optimiser.step(1e-3)

    def peer_step() -> None:
        peer_gradient()
        peer.step()

    flat = decoded.reshape(-1, dim)
    right = rng.standard_normal((dim, config.product_rows)).astype(np.float32)
    e = rng.standard_normal((config.product_rows, batch * tokens)).astype(np.float32)
    forward, backward = flat @ right, e @ flat

    def floor() -> None:
        np.matmul(flat, right, forward)
        np.matmul(e, flat, backward)

    ours, theirs, least = alternate([ours_step, peer_step, floor], repeats)
    return {
        "shape": f"batch {batch}, {tokens} x {dim}, {blocks} blocks, rank {rank}, {heads} heads",
        "tile_images": images,
        "macs_per_step": plan.macs,
        "arena_bytes": plan.arena_bytes,
        "threads": threads,
        "largest_relative_gradient_difference": f"{worst:.1e}",
        "numpy_step_seconds": round(statistics.median(ours), 5),
        "torch_eager_step_seconds": round(statistics.median(theirs), 5),
        "two_wide_products_seconds": round(statistics.median(least), 5),
        "ratio_to_torch_eager": round(median_ratio(ours, theirs), 3),
        "ratio_to_two_wide_products": round(median_ratio(ours, least), 3),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "avx512": "avx512f" in cpu_flags(),
    }


def alternate(functions: list[Callable[[], None]], repeats: int) -> list[list[float]]:
    """Seconds of each function, called in turn, `repeats` times after two warm-ups."""
    seconds: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 2):
        for times, function in zip(seconds, functions):
            before = time.perf_counter()
            function()
            if turn >= 2:
                times.append(time.perf_counter() - before)
    return seconds


def median_ratio(first: list[float], second: list[float]) -> float:
    """Median of the pairwise ratios."""
    return statistics.median(a / b for a, b in zip(first, second))


def cpu_flags() -> str:
    """The processor's feature flags, where Linux tells them."""
    try:
        with open("/proc/cpuinfo") as info:
            return next((line for line in info if line.startswith("flags")), "")
    except OSError:
        return ""


if __name__ == "__main__":
    main()
