"""Reports a linear probe of the finished backbone on handwritten digits.

    python -m benchmarks.demo_backbone.digits_check

The digits play no part in pretraining or in any choice made for it. Protocol: scikit-learn's 1797
digits as 8-bit grey, enlarged to the model's size (bicubic), written and read as PNG; the outputs
of the embedding and of all blocks summed; logistic regression on standardised features, 800
stratified training images and 997 for the test, split seed 0. The same network with random weights
is probed for three seeds.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from export.torchvision_repair import import_timm

RANDOM_SEEDS = (0, 1, 2)
TRAIN_IMAGES = 800
BATCH = 128


def enlarge(digit: NDArray[np.float64], side: int) -> NDArray[np.uint8]:
    """Enlarges one 8x8 digit of 0 to 16, by way of a PNG, to (side, side, 3) bytes."""
    small = Image.fromarray((digit * (255.0 / 16.0)).round().astype(np.uint8))
    stream = io.BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(stream, "PNG")
    return np.asarray(Image.open(stream).convert("RGB"))


def load_images(side: int) -> tuple[Tensor, NDArray[np.int64]]:
    """Returns the digits as the model's input, and their labels."""
    digits = load_digits()
    images = np.stack([enlarge(digit, side) for digit in digits.images])
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    return scaled, digits.target


def summed_tokens(model: Any, images: Tensor) -> Tensor:
    """Sums the tokens after the embedding and after every block."""
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    total = tokens
    for block in model.blocks:
        tokens = block(tokens)
        total = total + tokens
    return total


def probe(features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Returns the test accuracy of a linear classifier on the features."""
    train_x, test_x, train_y, test_y = train_test_split(
        features, labels, train_size=TRAIN_IMAGES, stratify=labels, random_state=0
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    return float(classifier.fit(train_x, train_y).score(test_x, test_y))


def report(name: str, model: Any, images: Tensor, labels: NDArray[np.int64]) -> None:
    """Prints the probe on the mean patch token and on the class token."""
    model.eval()
    with torch.no_grad():
        tokens = torch.cat([summed_tokens(model, part) for part in images.split(BATCH)])
    by_patches = probe(tokens[:, 1:].mean(dim=1).numpy(), labels)
    by_class_token = probe(tokens[:, 0].numpy(), labels)
    print(f"{name}: mean patch token {by_patches:.4f}, class token {by_class_token:.4f}")


def main() -> None:
    """Probes the pretrained and the random networks, and the bare pixels."""
    parser = argparse.ArgumentParser(description="Probe the backbone on handwritten digits.")
    parser.add_argument("--backbone", type=Path, default=Path(__file__).parent)
    folder = parser.parse_args().backbone
    create_model = import_timm().create_model
    pretrained = create_model(f"local-dir:{folder}", pretrained=True)
    images, labels = load_images(pretrained.patch_embed.img_size[0])
    report("pretrained", pretrained, images, labels)
    for seed in RANDOM_SEEDS:
        torch.manual_seed(seed)
        random = create_model(f"local-dir:{folder}", pretrained=False)
        report(f"random weights, seed {seed}", random, images, labels)
    print(f"pixels: {probe(images[:, 0].flatten(1).numpy(), labels):.4f}")


if __name__ == "__main__":
    main()
