"""One run of one PyTorch method, in a process of its own; prints one JSON object.

    python -m benchmarks.methods.worker TAPS METHOD --lr 1e-3 --weight-decay 1 --seed 0 --epochs 30

The recipe is our trainer's: AdamW with decay on matrices alone, linear warm-up, a half cosine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.methods.methods import BY_NAME, Method
from benchmarks.methods.networks import parameter_count
from benchmarks.methods.taps import POOLS, SOURCES, TapSplit
from edge_runtime.memory import peak_rss_bytes
from trainer_lite.batches import epoch_batches
from trainer_lite.config import TrainConfig
from trainer_lite.schedule import learning_rate

Array = np.ndarray[Any, Any]
Read = Callable[[Array], Tensor]


@click.command()
@click.argument("taps", type=click.Path(path_type=Path, exists=True))
@click.argument("method", type=click.Choice(list(BY_NAME)))
@click.option("--lr", type=float, required=True)
@click.option("--seed", type=int, required=True)
@click.option("--weight-decay", type=float, required=True)
@click.option("--epochs", type=int, required=True)
@click.option("--device", default="cpu")
def main(
    taps: Path, method: str, lr: float, seed: int, weight_decay: float, epochs: int, device: str
) -> None:
    """Trains on train, and reports accuracies of the last epoch."""
    torch.set_num_threads(1)
    config = TrainConfig(lr=lr, weight_decay=weight_decay, seed=seed, epochs=epochs)
    print(json.dumps(run(taps, BY_NAME[method], config, device)))


def run(folder: Path, method: Method, config: TrainConfig, device: str = "cpu") -> dict[str, Any]:
    """One training run; accuracies are fractions."""
    torch.manual_seed(config.seed)
    train, val, test = (TapSplit(folder, name) for name in ("train", "val", "test"))
    if method.source == "taps":
        train.load()
    model = method.build(train.shape).to(device)
    losses = fit(model, reader(train, method, device), train.labels, config)
    return {
        "val_accuracy": accuracy(model, reader(val, method, device), val.labels, config.batch_size),
        "test_accuracy": accuracy(
            model, reader(test, method, device), test.labels, config.batch_size
        ),
        "train_loss": losses[-1],
        "parameters": parameter_count(model),
        "peak_rss_bytes": peak_rss_bytes(),
    }


def reader(split: TapSplit, method: Method, device: str) -> Read:
    """What a method is fed, by rows, on the device that it is trained on."""
    if method.source == "taps":
        return lambda rows: torch.from_numpy(split.read(rows)).to(device)
    pooled = split.pooled[:, SOURCES.index(method.source)]
    if method.pool == "both":
        pooled = pooled.reshape(len(pooled), -1)
    else:
        pooled = pooled[:, POOLS.index(method.pool)]
    return lambda rows: torch.from_numpy(pooled[rows]).to(device)


def fit(model: nn.Module, read: Read, labels: Array, config: TrainConfig) -> list[float]:
    """Trains in place; mean loss of every epoch."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.rate)
    steps = config.epochs * -(-len(labels) // config.batch_size)
    done, losses = 0, []
    for epoch in range(1, config.epochs + 1):
        total = 0.0
        for rows in epoch_batches(len(labels), config.batch_size, config.seed, epoch):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(done, steps, config.rate, config.warmup)
            given = read(rows)
            targets = torch.from_numpy(labels[rows]).to(given.device)
            loss = functional.cross_entropy(
                model(given), targets, label_smoothing=config.label_smoothing
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(rows)
            done += 1
        losses.append(total / len(labels))
    return losses


def accuracy(model: nn.Module, read: Read, labels: Array, batch: int) -> float:
    """Fraction classified rightly."""
    right = 0
    with torch.inference_mode():
        for start in range(0, len(labels), batch):
            rows = np.arange(start, min(start + batch, len(labels)))
            right += int((model(read(rows)).argmax(1).cpu().numpy() == labels[rows]).sum())
    return right / len(labels)


if __name__ == "__main__":
    main()
