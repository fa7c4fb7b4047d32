"""Pretrains the demo's backbone on formula-made glyphs and writes it in timm's local-dir form.

    python -m benchmarks.demo_backbone.pretrain --out DIR --minutes 30 --threads 1 --seed 0

The network is timm's VisionTransformer, the images come from `glyphs.py`, the losses from
`objective.py`. A run of --steps is repeatable; one of --minutes does as many steps as it can.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.demo_backbone import glyphs
from benchmarks.demo_backbone.objective import (
    PROTOTYPE_SIDE,
    Decoders,
    encode,
    loss_of,
    pooled,
    standardise_prototypes,
)
from export.torchvision_repair import import_timm

ARCHITECTURE = "vit_tiny_patch16_224"
NUM_CLASSES = 400
MODEL_ARGS: dict[str, Any] = {
    "img_size": glyphs.IMAGE_SIZE,
    "patch_size": 8,
    "embed_dim": 96,
    "depth": 6,
    "num_heads": 3,
}
DESCRIPTION = (
    "Pretrained from random weights on images that benchmarks/demo_backbone/glyphs.py generates, "
    "and on nothing else; no third-party images or weights."
)
PLAIN_UNTIL, VARIED_FROM, MOST_VARIED = 0.1, 0.5, 0.8  # white on black first, then a mixture
AHEAD = 4  # batches drawn while the network learns
SAVE_EVERY = 120.0
HELD_OUT_IMAGES = 4096


@dataclass(frozen=True)
class Settings:
    """What one pretraining run is asked to do."""

    out: Path
    minutes: float
    steps: int | None
    threads: int
    seed: int
    batch_size: int = 64
    peak_lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: float = 0.05


@dataclass(frozen=True)
class Outcome:
    """What one pretraining run measured."""

    steps: int
    images: int
    seconds: float
    class_token_accuracy: float | None = None
    patch_mean_accuracy: float | None = None


class Progress:
    """Fraction of the run done: by steps where a number is given, else by wall time."""

    def __init__(self, minutes: float, steps: int | None) -> None:
        self._start = time.monotonic()
        self._seconds = minutes * 60.0
        self._steps = steps

    def elapsed(self) -> float:
        """Returns the seconds since the start."""
        return time.monotonic() - self._start

    def fraction(self, step: int) -> float:
        """Returns how much of the run lies behind `step` finished steps, 1 or more at its end."""
        if self._steps is not None:
            return step / self._steps
        return self.elapsed() / self._seconds


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """Turns (n, side, side, 3) bytes into the model's (n, 3, side, side) range of -1 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def build_model(seed: int) -> nn.Module:
    """Returns the untrained network, its matrices drawn as in ViT's first code (uniform Xavier)."""
    torch.manual_seed(seed)
    model: nn.Module = import_timm().create_model(
        ARCHITECTURE, num_classes=NUM_CLASSES, weight_init="jax", **MODEL_ARGS
    )
    nn.init.trunc_normal_(model.head.weight, std=0.02)
    return model


def variety_at(fraction: float) -> float:
    """Returns the share of coloured, noisy images at a point of the run."""
    rise = (fraction - PLAIN_UNTIL) / (VARIED_FROM - PLAIN_UNTIL)
    return MOST_VARIED * min(1.0, max(0.0, rise))


def batches(
    classes: list[glyphs.Glyph], settings: Settings, progress: Progress
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields (images, ink, labels), drawn ahead by one other process, until the run is over."""
    rng = np.random.default_rng((17, settings.seed))
    size, step = settings.batch_size, 0
    waiting: deque[tuple[NDArray[np.int64], Future[tuple[glyphs.Pixels, glyphs.Pixels]]]] = deque()
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        while progress.fraction(step) < 1.0:
            while len(waiting) < AHEAD:
                labels = rng.integers(0, len(classes), size)
                index = step + len(waiting)
                request = (classes, labels, index * size, glyphs.TRAIN, settings.seed)
                variety = variety_at(progress.fraction(index))
                waiting.append((labels, pool.submit(glyphs.render_batch, *request, variety)))
            labels, drawn = waiting.popleft()
            images, covers = drawn.result()
            ink = torch.from_numpy(covers).float() / 255.0
            yield to_input(images), ink, torch.from_numpy(labels)
            step += 1


def learning_rate(fraction: float, peak: float, warmup: float) -> float:
    """Rises linearly over `warmup`, then falls to 0 along half a cosine."""
    if fraction < warmup:
        return peak * max(fraction, 1e-3) / warmup
    turn = min(1.0, (fraction - warmup) / (1.0 - warmup))
    return peak * 0.5 * (1.0 + math.cos(math.pi * turn))


def make_optimizer(modules: nn.ModuleList, settings: Settings) -> torch.optim.AdamW:
    """Returns AdamW that decays matrices only."""
    matrices = [p for name, p in modules.named_parameters() if _decays(name, p)]
    others = [p for name, p in modules.named_parameters() if not _decays(name, p)]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.peak_lr, betas=(0.9, 0.98))


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and not name.endswith(("pos_embed", "cls_token"))


def train(model: nn.Module, classes: list[glyphs.Glyph], settings: Settings) -> Outcome:
    """Trains in place, saving now and then; returns what was done, not yet its accuracies."""
    decoders = Decoders(MODEL_ARGS["embed_dim"], MODEL_ARGS["patch_size"])
    modules = nn.ModuleList([model, decoders])
    optimizer = make_optimizer(modules, settings)
    drawings = np.stack([glyphs.draw_prototype(glyph, PROTOTYPE_SIDE) for glyph in classes])
    prototypes = standardise_prototypes(torch.from_numpy(drawings).float().flatten(1))
    progress = Progress(settings.minutes, settings.steps)
    step, saved = 0, 0.0
    modules.train()
    for images, ink, labels in batches(classes, settings, progress):
        fraction = progress.fraction(step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(fraction, settings.peak_lr, settings.warmup)
        loss, naming = loss_of(model, decoders, images, ink, labels, prototypes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        step += 1
        seconds = progress.elapsed()
        if step % 50 == 0:
            print(
                f"step {step} done {fraction:.3f} loss {loss.item():.3f} "
                f"naming {naming.item():.3f} seconds {seconds:.0f}",
                flush=True,
            )
        if seconds - saved > SAVE_EVERY:
            saved = seconds
            save(model, Outcome(step, step * settings.batch_size, seconds), settings.out)
    return Outcome(step, step * settings.batch_size, progress.elapsed())


def held_out_accuracy(model: Any, classes: list[glyphs.Glyph], seed: int) -> tuple[float, float]:
    """Returns the accuracy on unseen instances, by class token and by mean patch token."""
    model.eval()
    labels = np.arange(HELD_OUT_IMAGES, dtype=np.int64) % len(classes)
    hits = np.zeros(2)
    for first in range(0, len(labels), 256):
        part = labels[first : first + 256]
        images, _ = glyphs.render_batch(classes, part, first, glyphs.HELD_OUT, seed)
        with torch.no_grad():
            tokens = encode(model, to_input(images))
        for place, pool in enumerate(pooled(tokens)):
            hits[place] += float((model.head(pool).argmax(dim=1).numpy() == part).sum())
    first_share, second_share = hits / len(labels)
    return round(float(first_share), 4), round(float(second_share), 4)


def config_of(outcome: Outcome) -> dict[str, Any]:
    """Returns timm's local-dir config, with a note of how the weights were made."""
    side = glyphs.IMAGE_SIZE
    return {
        "architecture": ARCHITECTURE,
        "num_classes": NUM_CLASSES,
        "num_features": MODEL_ARGS["embed_dim"],
        "model_args": MODEL_ARGS,
        "pretrained_cfg": {
            "tag": "edgetune_glyphs",
            "input_size": [3, side, side],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": NUM_CLASSES,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "apache-2.0",
            "description": DESCRIPTION,
        },
        "pretraining": {
            "images": outcome.images,
            "steps": outcome.steps,
            "seconds": round(outcome.seconds),
            "held_out_accuracy_class_token": outcome.class_token_accuracy,
            "held_out_accuracy_patch_mean": outcome.patch_mean_accuracy,
        },
    }


def save(model: nn.Module, outcome: Outcome, out: Path) -> None:
    """Writes config.json and model.safetensors (float32)."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config_of(outcome), indent=2) + "\n")


def check_reload(model: nn.Module, out: Path) -> None:
    """Reloads through timm and compares every weight."""
    reloaded = import_timm().create_model(f"local-dir:{out}", pretrained=True)
    for name, value in reloaded.state_dict().items():
        if not torch.equal(value, model.state_dict()[name]):
            raise RuntimeError(f"{name} differs after a reload from {out}")


def run(settings: Settings) -> Outcome:
    """Pretrains, measures, writes and checks one backbone."""
    torch.set_num_threads(settings.threads)
    classes = [glyphs.make_glyph(label, settings.seed) for label in range(NUM_CLASSES)]
    model = build_model(settings.seed)
    done = train(model, classes, settings)
    by_class_token, by_patch_mean = held_out_accuracy(model, classes, settings.seed)
    outcome = replace(done, class_token_accuracy=by_class_token, patch_mean_accuracy=by_patch_mean)
    save(model, outcome, settings.out)
    check_reload(model, settings.out)
    print(outcome)
    return outcome


def parse_arguments() -> Settings:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Pretrain the demo's backbone on glyphs.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--minutes", type=float, default=30.0, help="wall time of the training")
    parser.add_argument("--steps", type=int, help="stop after this many steps instead")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return Settings(**vars(parser.parse_args()))


if __name__ == "__main__":
    run(parse_arguments())
