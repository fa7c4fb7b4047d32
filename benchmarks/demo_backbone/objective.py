"""What the demo's backbone learns from a glyph: its class, its undistorted form and its ink.

The class token and the mean patch token each name the class (one shared head) and draw the class's
undistorted glyph; every patch token draws the ink of its own patch. Dense targets teach a small
transformer faster than the class alone; they and their weights are our own choice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PROTOTYPE_SIDE = 16
FORM_WEIGHT = 5.0
INK_WEIGHT = 10.0


class Decoders(nn.Module):
    """The linear maps from a token to a drawing, thrown away after pretraining."""

    def __init__(self, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.form = nn.Linear(embed_dim, PROTOTYPE_SIDE**2)
        self.ink = nn.Linear(embed_dim, patch_size**2)


def encode(model: Any, images: Tensor) -> Tensor:
    """Returns the normalised tokens of the last block, class token first."""
    tokens: Tensor = model.forward_features(images)
    return tokens


def cut_patches(covers: Tensor, patch_size: int) -> Tensor:
    """Cuts (n, side, side) covers into (n, patches, patch_size ** 2), in the model's order."""
    cut = covers.unfold(1, patch_size, patch_size).unfold(2, patch_size, patch_size)
    return cut.reshape(covers.shape[0], -1, patch_size**2)


def standardise_prototypes(prototypes: Tensor) -> Tensor:
    """Takes the mean drawing off (classes, pixels) prototypes and brings them to unit spread."""
    centred = prototypes - prototypes.mean(dim=0)
    return centred / centred.std()


def pooled(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the class token and the mean patch token."""
    return tokens[:, 0], tokens[:, 1:].mean(dim=1)


def loss_of(
    model: Any,
    decoders: Decoders,
    images: Tensor,
    covers: Tensor,
    labels: Tensor,
    prototypes: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns the whole loss of a batch and, for the log, its classification part."""
    tokens = encode(model, images)
    naming = torch.zeros(())
    form = torch.zeros(())
    for pool in pooled(tokens):
        naming = naming + 0.5 * functional.cross_entropy(model.head(pool), labels)
        form = form + 0.5 * functional.mse_loss(decoders.form(pool), prototypes[labels])
    ink = cut_patches(covers, model.patch_embed.patch_size[0])
    drawn = functional.mse_loss(decoders.ink(tokens[:, 1:]), ink)
    return naming + FORM_WEIGHT * form + INK_WEIGHT * drawn, naming.detach()
