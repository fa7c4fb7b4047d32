"""Blocks are found by timm's own interface, and their sum is what timm computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edge_runtime.errors import ExportError
from export import preprocessing, verify
from export.tap_sum import TapSum
from export.taps import find_taps

VIT = {"embed_dim": 48, "depth": 3, "num_heads": 3}
SWIN = {"embed_dim": 24, "depths": (1, 1, 1, 2), "num_heads": (1, 1, 2, 2)}
CONVNEXT = {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 3)}

# name, options, size, blocks, tokens, prefix tokens, embed_dim, hierarchical
MODELS: list[tuple[str, dict[str, Any], int, int, int, int, int, bool]] = [
    ("vit_tiny_patch16_224", VIT, 64, 3, 17, 1, 48, False),
    ("deit_tiny_distilled_patch16_224", VIT, 64, 3, 18, 2, 48, False),
    ("deit3_small_patch16_224", VIT, 64, 3, 17, 1, 48, False),
    ("vit_small_patch14_reg4_dinov2", VIT, 56, 3, 21, 5, 48, False),
    ("vit_small_patch16_dinov3", VIT, 64, 3, 21, 5, 48, False),
    ("eva02_tiny_patch14_224", VIT, 56, 3, 17, 1, 48, False),
    ("beit_base_patch16_224", VIT, 64, 3, 17, 1, 48, False),
    ("vit_base_patch32_clip_224", VIT, 64, 3, 5, 1, 48, False),
    ("vit_base_patch16_siglip_224", VIT, 64, 3, 16, 0, 48, False),
    ("test_vit_relpos", {}, 160, 9, 100, 0, 96, False),
    ("cait_xxs24_224", {**VIT, "num_heads": 2}, 64, 3, 16, 0, 48, False),
    ("mixer_s32_224", {}, 64, 8, 4, 0, 512, False),
    ("swin_tiny_patch4_window7_224", SWIN, 224, 2, 49, 0, 192, True),
    ("convnext_atto", CONVNEXT, 64, 3, 4, 0, 32, True),
    ("test_mambaout", {}, 160, 1, 25, 0, 64, True),
]


def sized(name: str, options: dict[str, Any], size: int) -> dict[str, Any]:
    fixed = not name.startswith(("convnext", "test_"))
    return {**options, "img_size": size} if fixed else options


@pytest.mark.parametrize("case", MODELS, ids=[case[0] for case in MODELS])
def test_sum_is_that_of_forward_intermediates(create: Callable[..., Any], case: Any) -> None:
    name, options, size, blocks, tokens, prefix, embed_dim, hierarchical = case
    model = create(name, **sized(name, options, size))
    taps = find_taps(name, model, size)
    assert (len(taps.names), taps.tokens, taps.prefix_tokens) == (blocks, tokens, prefix)
    assert (taps.embed_dim, taps.hierarchical) == (embed_dim, hierarchical)
    how = preprocessing.resolve(model, size)
    batches = verify.sample_images(size)
    short = verify.sums_by_hand(model, taps, 1, how, batches)
    by_hand = verify.sums_by_hand(model, taps, blocks, how, batches)
    module = TapSum(model, taps, blocks, how)
    found = [module(images).numpy() for images in batches]
    assert found[2].shape == (5, tokens, embed_dim)
    assert found[2].dtype == np.float32
    assert verify.compare(found, by_hand).max_relative < 1e-5
    if blocks > 1:
        assert verify.compare(short, by_hand).max_relative > 1e-3


def test_sum_written_out(create: Callable[..., Any]) -> None:
    """z_0 is what enters block 1: position embeddings and class token in, nothing normalised."""
    model = create("test_vit")
    taps = find_taps("test_vit", model, 160)
    how = preprocessing.resolve(model, 160)
    images = verify.sample_images(160)[1]
    x = (images.permute(0, 3, 1, 2) / 255 - torch.tensor(how.mean)[:, None, None]) / (
        torch.tensor(how.std)[:, None, None]
    )
    z = model.norm_pre(model._pos_embed(model.patch_embed(x)))
    total = z
    for block in model.blocks[:4]:
        z = block(z)
        total = total + z
    found = TapSum(model, taps, 4, how)(images)
    torch.testing.assert_close(found, total, rtol=1e-5, atol=1e-5)
    assert not [name for name, _ in model.named_parameters() if name.startswith(("head", "norm."))]
    assert len(model.blocks) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet10t", r"input of layer4\.0 is \[256, 14, 14\] but output of layer4\.0 is \[512, 7"),
        ("test_efficientnet", r"input of blocks\.4\.0 is \[48, 7, 7\] but output"),
        ("test_byobnet", r"final_conv \(Identity\) holds no list of blocks"),
        ("crossvit_tiny_240", r"input of blocks\.2\.blocks\.0 is \[.*\] but output"),
        ("twins_pcpvt_small", r"feature_info names block\.\d, which the model has not"),
        ("pit_ti_224", r"hold 50 tokens, of which timm declares 0 prefix tokens and 49 spatial"),
    ],
)
def test_what_cannot_be_summed(create: Callable[..., Any], name: str, message: str) -> None:
    size = 240 if name.startswith("crossvit") else 224 if "test" not in name else 112
    with pytest.raises(ExportError, match=f"{name} cannot be summed: .*{message}"):
        find_taps(name, create(name), size)


def test_model_without_intermediates() -> None:
    with pytest.raises(ExportError, match="timm offers no intermediates"):
        find_taps("mine", nn.Linear(2, 2), 32)


def test_size_the_model_refuses(create: Callable[..., Any]) -> None:
    with pytest.raises(ExportError, match="mine cannot be run on images of 96 x 96 pixels"):
        find_taps("mine", create("vit_tiny_patch16_224", **VIT, img_size=64), 96)


def test_norm_epsilon_is_the_models(create: Callable[..., Any]) -> None:
    model = create("vit_base_patch32_clip_224", **VIT, img_size=64)
    assert find_taps("clip", model, 64).norm_eps == 1e-5
